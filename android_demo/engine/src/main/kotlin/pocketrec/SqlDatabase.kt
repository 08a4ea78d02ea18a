package pocketrec

import java.io.Closeable
import java.io.File

/**
 * What [SqlHistory] needs of SQLite: the framework's on Android, JDBC on a desktop, SQLCipher for a file that is encrypted.
 *
 * One connection, used by one thread at a time. What SQLite fails with becomes a [HistoryException], see [failure].
 */
public interface SqlDatabase : Closeable {
    /**
     * Runs one statement that answers nothing; gives how many rows a DELETE removed. [values] are Strings, Longs or null.
     *
     * Statements that begin and end transactions come through here, too; outside of one, each stands for itself.
     */
    public fun execute(statement: String, vararg values: Any?): Int

    /** Runs a query (or a pragma); the columns of its rows are Strings, Longs or null. */
    public fun query(statement: String): List<List<Any?>>

    public companion object {
        /** An error of SQLite with the codes and remedies of the Python runtime; [resultCode] may be an extended one. */
        @JvmStatic
        public fun failure(resultCode: Int, file: File, cause: Throwable): HistoryException {
            val (code, remedy) = when (resultCode and 0xff) {
                CORRUPT, NOT_A_DATABASE -> "history-corrupt" to "Restore it from a backup, or start a new file."
                CANNOT_OPEN, READ_ONLY, NO_PERMISSION -> "history-unwritable" to "Choose a file in a writable directory."
                FULL -> "history-full" to "Free some space; nothing that was recorded before is lost."
                IO_ERROR -> "history-io" to "Check the disk; nothing that was recorded before is lost."
                BUSY, LOCKED -> "history-busy" to "Another process holds it; try again."
                else -> "history-invalid" to "Choose another file for the history."
            }
            return HistoryException("the history $file cannot be used: ${cause.message}.", code, remedy, cause)
        }

        /** Refuses a file that SQLite would take for an empty one and write over; to be called before it is opened. */
        @JvmStatic
        public fun checkBeforeOpening(file: File) {
            if (file.length() in 1 until SMALLEST && !File("$file-journal").exists()) {
                throw HistoryException(
                    "$file is too short for a history.", "history-corrupt", "It is no database; choose another file.",
                )
            }
        }

        private const val SMALLEST = 512L

        // SQLite's primary result codes, sqlite.org/rescode.html.
        public const val NO_PERMISSION: Int = 3
        public const val BUSY: Int = 5
        public const val LOCKED: Int = 6
        public const val READ_ONLY: Int = 8
        public const val IO_ERROR: Int = 10
        public const val CORRUPT: Int = 11
        public const val FULL: Int = 13
        public const val CANNOT_OPEN: Int = 14
        public const val NOT_A_DATABASE: Int = 26
    }
}
