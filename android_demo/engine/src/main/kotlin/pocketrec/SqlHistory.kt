package pocketrec

/** What [SqlHistory] needs of SQLite: the framework's on Android, JDBC on a desktop. Errors are [HistoryException]s. */
public interface SqlDatabase : java.io.Closeable {
    /** Runs one statement that answers nothing; gives how many rows it changed. [values] are Strings, Longs or null. */
    public fun execute(statement: String, vararg values: Any?): Int

    /** Runs a query (or a pragma); the columns of its rows are Strings, Longs or null. */
    public fun query(statement: String): List<List<Any?>>
}

/**
 * The history in a SQLite file, the same file that the Python runtime writes: WAL with full synchronisation, so that a record is
 * there when the power fails; `secure_delete`, so that what is forgotten is not in the file any more; the newest [maxEvents] kept.
 */
public class SqlHistory(private val db: SqlDatabase, private val maxEvents: Int = MAX_EVENTS) : History {
    init {
        closingOnError(db) {
            val application = pragma("application_id")
            val version = pragma("user_version")
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
            for (setting in listOf("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON")) db.query("PRAGMA $setting")
            if (version < VERSION) transaction { migrate() }
        }
    }

    override fun record(event: Event): Unit = transaction {
        db.execute(
            "INSERT INTO events (item_id, event, timestamp) VALUES (?, ?, ?)", event.itemId, event.event, event.timestamp,
        )
        val (first, last) = db.query("SELECT min(seq), max(seq) FROM events")[0].map { it as Long }
        if (last - first >= maxEvents) {
            db.execute(
                "DELETE FROM events WHERE seq <= (SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                maxEvents.toLong(),
            )
        }
    }

    override fun events(): List<Event> = db.query("SELECT item_id, event, timestamp FROM events ORDER BY seq")
        .map { (item, event, time) -> Event(item as String, event as String, time as Long?) }

    override fun forget(itemId: String): Int = delete("DELETE FROM events WHERE item_id = ?", itemId)

    override fun clear(): Int = delete("DELETE FROM events")

    override fun close(): Unit = db.close()

    private fun delete(statement: String, vararg values: Any?): Int {
        var count = 0
        transaction { count = db.execute(statement, *values) }
        db.query("PRAGMA wal_checkpoint(TRUNCATE)") // the log still holds the pages as they were
        return count
    }

    private fun migrate() {
        if (pragma("user_version") == VERSION) return // another process was quicker
        db.execute(
            "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL," +
                " event TEXT NOT NULL, timestamp INTEGER)",
        )
        db.execute("CREATE INDEX events_item ON events (item_id)")
        db.execute("PRAGMA user_version = $VERSION")
        db.execute("PRAGMA application_id = $APPLICATION_ID")
    }

    private fun pragma(name: String): Long = db.query("PRAGMA $name")[0][0] as Long

    private inline fun transaction(block: () -> Unit) {
        db.execute("BEGIN IMMEDIATE")
        try {
            block()
            db.execute("COMMIT")
        } catch (error: Throwable) {
            try {
                db.execute("ROLLBACK")
            } catch (second: HistoryException) {
                error.addSuppressed(second)
            }
            throw error
        }
    }

    public companion object {
        /** Default retention by count: far more than any `length`, and a file of about a megabyte. */
        public const val MAX_EVENTS: Int = 10_000
        private const val APPLICATION_ID = 0x706B7472L // "pktr"
        private const val VERSION = 1L
    }
}
