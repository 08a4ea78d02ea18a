package pocketrec

/**
 * The history in a SQLite file, the same file that the Python runtime writes. Thread-safe; calls wait for each other and for the
 * disk, so not on the main thread.
 *
 * WAL with full synchronisation, so that a record is there when the power fails. `secure_delete` overwrites what is deleted, yet
 * pages of a B-tree that were rebalanced keep old copies of rows, and the log keeps pages as they were: after every deletion the
 * file is rebuilt (VACUUM) and the log emptied, and nothing of what was deleted is left in either (docs/privacy.md).
 *
 * @param maxEvents never more than this many are stored. When there are more, the oldest go, a sixteenth at once (with fewer than
 *   16, one at a time), as an erasure writes the whole file anew.
 * @param maxAgeSeconds no event older than this, by its timestamp and the clock, is stored after an opening or a `record`; those
 *   that would follow within a sixteenth of the age go with it. Events without a time stay. Null keeps all.
 * @throws HistoryException `history-foreign`, `history-newer`, `history-unwritable`, and those of [SqlDatabase.failure].
 */
public class SqlHistory(
    private val db: SqlDatabase,
    private val maxEvents: Int = MAX_EVENTS,
    private val maxAgeSeconds: Long? = null,
) : History {
    private var rebuilt = -1L // deletions that a rebuild of ours has been through
    private var pending = false
    private var tried = 0L
    private var closed = false

    init {
        closingOnError(db) {
            if (maxEvents < 1 || maxAgeSeconds != null && maxAgeSeconds < 1) {
                throw HistoryException(
                    "maxEvents $maxEvents and maxAgeSeconds $maxAgeSeconds must be positive.", "argument-invalid",
                )
            }
            HistorySchema.checkOwner(db)
            for (setting in SETTINGS) {
                val said = db.query("PRAGMA $setting").firstOrNull()?.firstOrNull()
                if (setting == WAL && said != "wal") {
                    throw HistoryException(
                        "the history cannot have a write-ahead log.", "history-unwritable",
                        "Choose a local disk; network file systems have no shared memory.",
                    )
                }
            }
            if (!HistorySchema.isCurrent(db)) transaction { HistorySchema.migrate(db) }
            var trimmed = 0
            if (maxAgeSeconds != null) transaction { trimmed = deleted(tooOld()) } // time passes while an app is not used
            if (trimmed > 0 || isErasurePending()) tryToErase()
        }
    }

    @Synchronized
    override fun record(event: Event): Boolean {
        var stored = false
        var trimmed = 0
        writing {
            // In the transaction: another process may have switched it off a moment ago.
            stored = HistorySchema.setting(db, "recording") != 0L
            if (stored) {
                db.execute(
                    "INSERT INTO events (item_id, event, timestamp) VALUES (?, ?, ?)", event.itemId, event.event, event.timestamp,
                )
                trimmed = deleted(tooOld() + tooMany())
            }
        }
        if (trimmed > 0) tryToErase()
        return stored
    }

    /** Remembered in the file, for every process and every later opening. */
    override var recording: Boolean
        @Synchronized get() = open { HistorySchema.setting(db, "recording") != 0L }

        @Synchronized set(on) = writing {
            db.execute("UPDATE settings SET value = ${if (on) 1 else 0} WHERE name = 'recording'")
        }

    @Synchronized
    override fun events(): List<Event> = open {
        val rows = db.query("SELECT item_id, event, timestamp FROM events ORDER BY seq")
        try {
            rows.map { (item, event, time) -> Event(item as String, event as String, time as Long?) }
        } catch (error: DataException) {
            throw damaged("${error.message}", error)
        } catch (error: ClassCastException) {
            throw damaged("a column has another type", error)
        }
    }

    @Synchronized
    override fun forget(itemId: String): Int = delete("DELETE FROM events WHERE item_id = ?", itemId)

    @Synchronized
    override fun clear(): Int = delete("DELETE FROM events")

    /**
     * Whether bytes of deleted events may still be in the file or its log: a reader of another process that began before the
     * deletion keeps them there, or a disk with no room to rebuild the file. The erasure is then done with a later write, at the
     * close, or at the next opening.
     */
    @get:Synchronized
    public val erasurePending: Boolean
        get() = open { isErasurePending() }

    /** Does an erasure that is pending now; throws `history-busy` while another process still reads what was deleted. */
    @Synchronized
    public fun erase(): Unit = open {
        tried = System.nanoTime()
        try {
            db.query("PRAGMA busy_timeout = $ERASE_MILLIS")
            val deletions = HistorySchema.setting(db, "deleted")
            if (deletions > rebuilt) {
                db.execute("VACUUM")
                rebuilt = deletions
            }
            if (db.query("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] != 0L) {
                throw HistoryException(
                    "deleted events are still seen by a reader of another process.", "history-busy",
                    "End that reader, then call erase again; the next opening tries, too.",
                )
            }
            transaction { db.execute("UPDATE settings SET value = max(value, ?) WHERE name = 'erased'", deletions) }
            pending = isErasurePending()
        } finally {
            db.query("PRAGMA busy_timeout = $BUSY_MILLIS")
        }
    }

    @Synchronized
    override fun close() {
        if (closed) return
        if (pending) tryToErase()
        closed = true
        db.close()
    }

    private fun tryToErase() {
        pending = true
        try {
            erase()
        } catch (_: HistoryException) { // later: see erasurePending
        }
    }

    private fun isErasurePending() = HistorySchema.setting(db, "deleted") > HistorySchema.setting(db, "erased")

    private fun delete(statement: String, vararg values: Any?): Int {
        var count = 0
        writing { count = deleted(db.execute(statement, *values)) }
        if (count > 0) tryToErase()
        return count
    }

    /** Notes, in the transaction that deletes, that something is to be erased: a kill cannot lose it. */
    private fun deleted(count: Int): Int {
        if (count > 0) db.execute("UPDATE settings SET value = value + 1 WHERE name = 'deleted'")
        return count
    }

    private fun tooMany(): Int {
        val (first, last) = db.query("SELECT min(seq), max(seq) FROM events")[0].map { it as Long? }
        if (first == null || last == null || last - first < maxEvents) return 0
        if (db.query("SELECT count(*) FROM events")[0][0] as Long <= maxEvents) return 0
        val border = "SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ${maxEvents - maxEvents / SLACK}"
        return db.execute("DELETE FROM events WHERE seq <= ($border)")
    }

    private fun tooOld(): Int {
        val age = maxAgeSeconds ?: return 0
        val limit = System.currentTimeMillis() / 1000 - age
        val oldest = db.query("SELECT min(timestamp) FROM events")[0][0] ?: return 0
        if (oldest !is Long) throw damaged("a timestamp is $oldest")
        return if (oldest >= limit) 0 else db.execute("DELETE FROM events WHERE timestamp < ${limit + age / SLACK}")
    }

    private inline fun writing(block: () -> Unit) {
        open { transaction(block) }
        if (pending && System.nanoTime() - tried > RETRY_NANOS) tryToErase()
    }

    private inline fun <T> open(block: () -> T): T {
        if (closed) throw HistoryException("the history is closed.", "closed", "Open it again.")
        return block()
    }

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
        private const val SLACK = 16
        private const val BUSY_MILLIS = 5_000 // how long a write waits for another process
        private const val ERASE_MILLIS = 250 // how long an erasure waits for readers elsewhere before it is put off
        private const val RETRY_NANOS = 5_000_000_000L // one that was put off is tried again with the first write after so long
        private const val WAL = "journal_mode=WAL"
        private val SETTINGS = listOf(
            "busy_timeout=$BUSY_MILLIS", "temp_store=MEMORY", WAL, "synchronous=FULL", "fullfsync=ON", "checkpoint_fullfsync=ON",
            "secure_delete=ON",
        )
    }
}
