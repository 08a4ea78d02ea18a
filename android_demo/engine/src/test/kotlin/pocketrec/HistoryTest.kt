package pocketrec

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

class HistoryTest {
    @TempDir
    lateinit var folder: File

    private fun open(max: Int = 100) = SqlHistory(JdbcDatabase(File(folder, "me.db")), max)

    private val histories get() = listOf(MemoryHistory(3), open(3))

    @Test
    fun `events stay in order, forgetting and clearing count`() = histories.forEach { history ->
        history.use {
            it.record(Event("a", "view", 5))
            it.record(Event("b", "", null))
            it.record(Event("a", "buy", 4))
            assertEquals(listOf(Event("a", "view", 5), Event("b"), Event("a", "buy", 4)), it.events())
            it.record(Event("é", "", 6)) // beyond the three that are kept
            assertEquals(listOf("b", "a", "é"), it.events().map(Event::itemId))
            assertEquals(1, it.forget("a"))
            assertEquals(0, it.forget("a"))
            assertEquals(2, it.clear())
            assertEquals(emptyList<Event>(), it.events())
        }
    }

    @Test
    fun `what was recorded is there after opening again`() {
        open().use { it.record(Event("a", "view", -7)) }
        open().use { assertEquals(listOf(Event("a", "view", -7)), it.events()) }
    }

    @Test
    fun `what was forgotten is in no file any more`() {
        open().use { history ->
            repeat(50) { history.record(Event("a-secret-item-$it")) }
            history.clear()
            for (file in folder.listFiles()!!) assertFalse("a-secret-item" in file.readText(Charsets.ISO_8859_1), file.name)
        }
    }

    @Test
    fun `a database of another program or of a later release is refused`() {
        JdbcDatabase(File(folder, "me.db")).use { it.execute("CREATE TABLE notes (text TEXT)") }
        assertCode("history-foreign") { open() }
        assertEquals(1L, JdbcDatabase(File(folder, "me.db")).use { it.query("SELECT count(*) FROM sqlite_master")[0][0] })
        File(folder, "me.db").delete()
        open().close()
        JdbcDatabase(File(folder, "me.db")).use { it.execute("PRAGMA user_version = 9") }
        assertCode("history-newer") { open() }
    }

    @Test
    fun `an export is lines of JSON`() {
        val out = File(folder, "out.jsonl")
        open().use {
            it.record(Event("é\"\n", "view", 5))
            it.record(Event("b"))
            assertEquals(2, it.export(out))
            assertCode("export-failed") { it.export(File(folder, "absent/out.jsonl")) }
        }
        val lines = out.readLines().map { Json.parse(it.toByteArray(), "line") }
        assertEquals(mapOf("item_id" to "é\"\n", "event" to "view", "timestamp" to 5L), lines[0])
        assertEquals(mapOf("item_id" to "b", "event" to "", "timestamp" to null), lines[1])
    }
}
