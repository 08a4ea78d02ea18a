package pocketrec

/**
 * Base of every error that pocketrec raises on purpose.
 *
 * The message names the value that was wrong; [code] is stable and is what an app switches on (the codes are those of
 * the Python runtime); [remedy] says what can be done and may be empty.
 */
public open class PocketrecException(
    message: String,
    public val code: String,
    public val remedy: String = "",
    cause: Throwable? = null,
) : RuntimeException("$message $remedy".trimEnd(), cause)

/** A bundle that is missing, damaged, hostile, unsigned where it must be signed, or too new (docs/bundle.md §10). */
public class BundleException(message: String, code: String, remedy: String = "", cause: Throwable? = null) :
    PocketrecException(message, code, remedy, cause)

/** A history that cannot be used or written. */
public class HistoryException(message: String, code: String, remedy: String = "", cause: Throwable? = null) :
    PocketrecException(message, code, remedy, cause)

/** A request whose values cannot be used. */
public class DataException(message: String, code: String, remedy: String = "") : PocketrecException(message, code, remedy)
