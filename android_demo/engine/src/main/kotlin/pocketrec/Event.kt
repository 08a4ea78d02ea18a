package pocketrec

import kotlin.math.abs

/**
 * One thing a person did with one item.
 *
 * @property itemId the item, not empty; it need not be in the catalogue.
 * @property event the type; "" (or a type the bundle does not know) is the plain one.
 * @property timestamp whole Unix seconds (not milliseconds), or null when unknown.
 * @throws DataException for an empty or too long id or type, lone surrogates, or a time of magnitude 2^53 or more.
 */
public data class Event(val itemId: String, val event: String = "", val timestamp: Long? = null) {
    init {
        checkText(itemId, "item id")
        if (itemId.isEmpty()) throw DataException("an item id is empty.", "item-id-invalid", "Leave the event out.")
        checkText(event, "event type")
        if (timestamp != null) checkTime(timestamp)
    }
}

/** Item ids as a history of plain events without times. */
public fun eventsOf(vararg itemIds: String): List<Event> = itemIds.map { Event(it) }

internal fun checkText(value: String, what: String): String {
    var bytes = 0
    var at = 0
    while (at < value.length) {
        val point = value.codePointAt(at)
        if (point in 0xd800..0xdfff) {
            throw DataException("the $what is not valid Unicode.", "text-invalid", "Remove the lone surrogates.")
        }
        bytes += if (point < 0x80) 1 else if (point < 0x800) 2 else if (point < 0x10000) 3 else 4
        at += Character.charCount(point)
    }
    if (bytes > Limits.ID_BYTES) {
        throw DataException(
            "the $what \"${value.take(40)}…\" has $bytes bytes.", "text-invalid", "At most ${Limits.ID_BYTES} are allowed.",
        )
    }
    return value
}

internal fun checkTime(value: Long): Long {
    if (value == Long.MIN_VALUE || abs(value) >= 1L shl 53) {
        throw DataException(
            "the timestamp $value is out of range.", "timestamp-invalid", "Give whole Unix seconds.",
        )
    }
    return value
}
