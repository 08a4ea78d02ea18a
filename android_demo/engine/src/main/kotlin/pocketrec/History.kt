package pocketrec

import java.io.Closeable
import java.io.File
import java.io.IOException

/** The stored events of one person, oldest first. Thread-safe. */
public interface History : Closeable {
    /** Appends one event; durable when it returns, where the history is a file. False, and nothing stored, when [recording] is off. */
    public fun record(event: Event): Boolean

    /** Whether events are recorded; false when this person opted out. What is stored stays: to be forgotten too, [clear]. */
    public var recording: Boolean

    public fun events(): List<Event>

    /** Deletes every event of an item, beyond recovery; gives how many there were. */
    public fun forget(itemId: String): Int

    /** Deletes everything, beyond recovery; gives how many events there were. */
    public fun clear(): Int

    /**
     * Writes JSON lines (`item_id`, `event`, `timestamp`), oldest first, for the owner's eyes only; an existing file is replaced
     * when all is written.
     */
    public fun export(out: File): Int {
        val events = events()
        val partial = File(out.absoluteFile.parentFile, ".${out.name}.part")
        try {
            java.io.FileOutputStream(partial).use { stream ->
                partial.setReadable(false, false)
                partial.setReadable(true, true)
                for ((item, event, time) in events) {
                    val line = "{\"item_id\": ${Json.quoted(item)}, \"event\": ${Json.quoted(event)}, \"timestamp\": $time}\n"
                    stream.write(line.toByteArray())
                }
                stream.fd.sync()
            }
            java.nio.file.Files.move(
                partial.toPath(), out.absoluteFile.toPath(), java.nio.file.StandardCopyOption.REPLACE_EXISTING,
            )
        } catch (error: IOException) {
            partial.delete()
            throw HistoryException(
                "the history cannot be exported to $out: ${error.message}.", "export-failed",
                "Choose a file in a writable directory.", error,
            )
        }
        return events.size
    }
}

/** Keeps the history in memory; it is gone with the process. */
public class MemoryHistory(private val maxEvents: Int = SqlHistory.MAX_EVENTS) : History {
    private val events = ArrayDeque<Event>()

    @get:Synchronized
    @set:Synchronized
    override var recording: Boolean = true

    @Synchronized
    override fun record(event: Event): Boolean {
        if (!recording) return false
        events.addLast(event)
        while (events.size > maxEvents) events.removeFirst()
        return true
    }

    @Synchronized
    override fun events(): List<Event> = events.toList()

    @Synchronized
    override fun forget(itemId: String): Int {
        val before = events.size
        events.removeAll { it.itemId == itemId }
        return before - events.size
    }

    @Synchronized
    override fun clear(): Int = events.size.also { events.clear() }

    override fun close(): Unit = Unit
}
