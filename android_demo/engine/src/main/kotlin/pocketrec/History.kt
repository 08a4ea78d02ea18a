package pocketrec

import java.io.Closeable
import java.io.File
import java.io.IOException

/** The stored events of one person, oldest first. Called from one thread at a time. */
public interface History : Closeable {
    /** Appends one event; durable when it returns, where the history is a file. */
    public fun record(event: Event)

    public fun events(): List<Event>

    /** Deletes every event of an item, beyond recovery; gives how many there were. */
    public fun forget(itemId: String): Int

    /** Deletes everything, beyond recovery; gives how many events there were. */
    public fun clear(): Int

    /** Writes JSON lines (`item_id`, `event`, `timestamp`), oldest first; an existing file is replaced when all is written. */
    public fun export(out: File): Int {
        val events = events()
        val partial = File(out.absoluteFile.parentFile, ".${out.name}.part")
        try {
            java.io.FileOutputStream(partial).use { stream ->
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

    override fun record(event: Event) {
        events.addLast(event)
        while (events.size > maxEvents) events.removeFirst()
    }

    override fun events(): List<Event> = events.toList()

    override fun forget(itemId: String): Int {
        val before = events.size
        events.removeAll { it.itemId == itemId }
        return before - events.size
    }

    override fun clear(): Int = events.size.also { events.clear() }

    override fun close(): Unit = Unit
}
