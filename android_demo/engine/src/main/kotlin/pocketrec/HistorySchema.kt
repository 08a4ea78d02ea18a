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

    /** Throws `history-foreign` or `history-newer` for a file that is not ours to touch. */
    fun checkOwner(db: SqlDatabase) {
        val application = pragma(db, "application_id")
        val version = pragma(db, "user_version")
        // android_metadata is what Android's framework puts into every database it opens.
        val tables = db.query("SELECT count(*) FROM sqlite_master WHERE name <> 'android_metadata'")[0][0] as Long
        if (application != APPLICATION_ID && (application != 0L || version != 0L || tables != 0L)) {
            throw HistoryException(
                "the database is one of another program.", "history-foreign", "Choose another file for the history.",
            )
        }
        if (version > VERSION) {
            throw HistoryException(
                "the history has version $version; this release knows $VERSION.", "history-newer", "Update pocketrec.",
            )
        }
    }

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
