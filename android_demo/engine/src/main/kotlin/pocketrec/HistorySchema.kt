package pocketrec

/**
 * Whose file it is, which version it has, and how it gets to ours; the same file that the Python runtime writes.
 *
 * A file of an earlier release is brought forward in one transaction when it is opened; one of a later release, or of another
 * program, is refused and left as it is.
 */
internal object HistorySchema {
    private const val APPLICATION_ID = 0x706B7472L // "pktr"

    /** Statements that lead from version i to version i + 1. */
    private val MIGRATIONS = listOf(
        listOf(
            // AUTOINCREMENT: a sequence number is never used twice, also not after the newest event was forgotten.
            "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL," +
                " event TEXT NOT NULL, timestamp INTEGER)",
            "CREATE INDEX events_item ON events (item_id)",
        ),
        listOf(
            "CREATE INDEX events_timestamp ON events (timestamp)", // retention by age, with every record
            // `recording`: 0 when this person opted out. `deleted`, `erased`: how many deletions there were, and up to which of
            // them nothing is left in the file; when they differ, an erasure is still to be done.
            "CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
            // What a release before this one deleted may still lie about.
            "INSERT INTO settings VALUES ('recording', 1), ('deleted', (SELECT count(*) > 0 FROM events)), ('erased', 0)",
        ),
    )
    private val VERSION = MIGRATIONS.size.toLong()

    /** What Android's framework puts into every database it opens, and what SQLite makes for AUTOINCREMENT. */
    private val FRAMEWORK = made("CREATE TABLE android_metadata (locale TEXT)")
    private val SEQUENCE = listOf("table", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)")

    /**
     * Throws `history-foreign`, `history-newer` or `history-corrupt` for a file that is not ours to touch: another program's, a
     * later release's, or one of ours with more in it than we made, or less. A trigger, or a view in the place of a table, would
     * run with our statements; so the schema has to be ours to the letter, before anything is written.
     */
    fun checkOwner(db: SqlDatabase) {
        val application = pragma(db, "application_id")
        val version = pragma(db, "user_version")
        // An index without a statement is one that SQLite made for a key of a table.
        val rows = db.query("SELECT type, name, sql FROM sqlite_master")
        val found = rows.filter { it[2] != null || it[0] != "index" }.toSet() - setOf(FRAMEWORK)
        if (version < 0 || application != APPLICATION_ID && (application != 0L || version != 0L || found.isNotEmpty())) {
            throw HistoryException(
                "the database is one of another program.", "history-foreign", "Choose another file for the history.",
            )
        }
        if (version > VERSION) {
            throw HistoryException(
                "the history has version $version; this release knows $VERSION.", "history-newer", "Update pocketrec.",
            )
        }
        val ours = MIGRATIONS.take(version.toInt()).flatten().filter { it.startsWith("CREATE ") }.map(::made).toMutableSet()
        if (version > 0) ours += SEQUENCE
        if (!found.containsAll(ours)) throw damaged("it lacks, or has another, ${names(ours - found)}")
        if (!ours.containsAll(found)) {
            throw HistoryException(
                "the history holds what pocketrec never made: ${names(found - ours)}.", "history-foreign",
                "Somebody changed it; restore it from a backup, or choose another file for the history.",
            )
        }
    }

    /** The row of `sqlite_master` that a statement makes: its kind, its name, itself. */
    private fun made(statement: String): List<Any?> {
        val (_, kind, name) = statement.split(' ')
        return listOf(kind.lowercase(java.util.Locale.ROOT), name, statement)
    }

    /** Kind and name of a few; the names are a stranger's. */
    private fun names(rows: Set<List<Any?>>): String = rows.take(5).joinToString { "${it[0]} ${"${it[1]}".take(60)}" }

    fun isCurrent(db: SqlDatabase): Boolean = pragma(db, "user_version") == VERSION

    /** Brings the file to the newest version; called inside a transaction that holds the write lock. */
    fun migrate(db: SqlDatabase) {
        // Read here, under the lock: another process may have migrated meanwhile.
        for (version in pragma(db, "user_version") until VERSION) {
            MIGRATIONS[version.toInt()].forEach { db.execute(it) }
            db.execute("PRAGMA user_version = ${version + 1}")
        }
        db.execute("PRAGMA application_id = $APPLICATION_ID")
    }

    /** The value of a setting. */
    fun setting(db: SqlDatabase, name: String): Long =
        db.query("SELECT value FROM settings WHERE name = '$name'").firstOrNull()?.get(0) as? Long
            ?: throw damaged("its setting $name is missing")

    private fun pragma(db: SqlDatabase, name: String): Long = db.query("PRAGMA $name")[0][0] as Long
}

/** SQLite reads the file, and what is in it is not what we wrote. */
internal fun damaged(what: String, cause: Throwable? = null) = HistoryException(
    "the history is damaged: $what.", "history-corrupt", "Restore it from a backup, or start a new file.", cause,
)
