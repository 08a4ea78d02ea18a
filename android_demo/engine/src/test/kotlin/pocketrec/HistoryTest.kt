package pocketrec

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.random.Random

class HistoryTest {
    @TempDir
    lateinit var folder: File

    private val file get() = File(folder, "me.db")

    private fun open(max: Int = 100, age: Long? = null) = SqlHistory(JdbcDatabase(file), max, age)

    /** All bytes on the disk: the file, its log, the log's index. */
    private fun bytes() = folder.listFiles()!!.joinToString("") { it.readText(Charsets.ISO_8859_1) }

    private fun now() = System.currentTimeMillis() / 1000

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
    fun `nothing of what was deleted is left in any file`() = repeat(6) { seed ->
        // Ids of many lengths split and merge pages, where copies of deleted rows would be left behind.
        val chance = Random(seed)
        file.delete()
        val limit = listOf(7, 60, 10_000)[seed % 3]
        val left = open(limit).use { history ->
            val ids = List(150) { "<$it>" + "x".repeat(chance.nextInt(200)) }
            for (id in ids) history.record(Event(id))
            for (id in ids.shuffled(chance).take(9)) history.forget(id)
            assertFalse(history.erasurePending)
            val left = history.events().map { it.itemId.substringBefore('>') }
            assertTrue(left.size <= limit)
            val raw = bytes()
            for (n in 0 until 150) assertEquals("<$n" in left, "<$n>" in raw, "<$n> while it is open")
            left
        }
        val raw = bytes()
        for (n in 0 until 150) assertEquals("<$n" in left, "<$n>" in raw, "<$n> when it is closed")
    }

    @Test
    fun `a reader elsewhere puts the erasure off`() {
        val history = open()
        history.record(Event("public"))
        history.record(Event("private-thing"))
        val reader = JdbcDatabase(file)
        reader.execute("BEGIN")
        assertEquals(2L, reader.query("SELECT count(*) FROM events")[0][0])
        assertEquals(1, history.forget("private-thing")) // does not wait for the reader, does not fail
        assertEquals(listOf("public"), history.events().map { it.itemId })
        assertTrue(history.erasurePending)
        assertCode("history-busy") { history.erase() }
        assertTrue("private-thing" in bytes())
        reader.execute("COMMIT")
        reader.close()
        history.close() // makes up for it
        assertFalse("private-thing" in bytes())
        open().use { assertFalse(it.erasurePending) }
        assertCode("closed") { history.events() }
    }

    @Test
    fun `when there are too many the oldest sixteenth goes`() = open(32).use { history ->
        for (n in 1..32) history.record(Event("$n"))
        assertEquals(32, history.events().size)
        history.record(Event("33"))
        assertEquals((4..33).map { "$it" }, history.events().map { it.itemId })
    }

    @Test
    fun `what is too old goes at a record and at an opening`() {
        open(age = 1600).use { history ->
            for (age in listOf(1550, 1400, 10)) history.record(Event("$age", "", now() - age))
            history.record(Event("no-time"))
            assertEquals(4, history.events().size)
            history.record(Event("1700", "", now() - 1700)) // and with it what would follow within a sixteenth
            assertEquals(listOf("1400", "10", "no-time"), history.events().map { it.itemId })
        }
        open(age = 1000).use { history ->
            assertEquals(listOf("10", "no-time"), history.events().map { it.itemId })
            assertFalse("1400" in bytes())
        }
        assertCode("argument-invalid") { open(age = 0) }
        assertCode("argument-invalid") { open(max = 0) }
    }

    @Test
    fun `opting out is remembered in the file`() {
        open().use {
            assertTrue(it.record(Event("a")) && it.recording)
            it.recording = false
            assertFalse(it.record(Event("b")))
        }
        open().use {
            assertFalse(it.recording)
            assertEquals(listOf("a"), it.events().map(Event::itemId))
            it.recording = true
            assertTrue(it.record(Event("c")))
        }
        MemoryHistory().use {
            it.recording = false
            assertFalse(it.record(Event("b")))
            assertEquals(emptyList<Event>(), it.events())
        }
    }

    @Test
    fun `files that Python wrote are read, and brought forward`() {
        val folder = Bundles.file("history")
        val want = (Json.parse(File(folder, "events.json").readBytes(), "events") as List<*>).map {
            val (item, event, time) = it as List<*>
            Event(item as String, event as String, time as Long?)
        }
        for (name in listOf("version-1.db", "version-2.db", "opted-out.db")) {
            File(folder, name).copyTo(file, overwrite = true)
            open().use { history ->
                assertEquals(want, history.events(), name)
                assertEquals(name != "opted-out.db", history.recording)
                assertFalse(history.erasurePending)
                history.recording = true
                history.record(Event("from Kotlin", "buy", 7))
                history.forget(want[0].itemId)
            }
            file.copyTo(File(folder, "kotlin/$name"), overwrite = true) // read by tests/tools/test_android.py
        }
        file.delete()
        open().use { history -> want.forEach { history.record(it) } }
        file.copyTo(File(folder, "kotlin/new.db"), overwrite = true)
    }

    @Test
    fun `a damaged file is refused and left as it is`() {
        open().use { history -> repeat(500) { history.record(Event("item-$it")) } }
        val good = file.readBytes()
        val damaged = mapOf(
            "text" to "no database, but long enough to be looked at. ".repeat(40).toByteArray(),
            "short" to good.copyOf(100),
            "holes" to good.copyOf().also { it.fill(0x5a, 4096, good.size) },
        )
        for ((name, raw) in damaged) {
            folder.listFiles()!!.forEach { it.delete() }
            file.writeBytes(raw)
            assertCode("history-corrupt") { open().use { it.events() } }
            assertTrue(raw.contentEquals(file.readBytes()), name)
        }
    }

    @Test
    fun `a database of another program or of a later release is refused`() {
        JdbcDatabase(file).use { it.execute("CREATE TABLE notes (text TEXT)") }
        assertCode("history-foreign") { open() }
        assertEquals(1L, JdbcDatabase(file).use { it.query("SELECT count(*) FROM sqlite_master")[0][0] })
        file.delete()
        open().close()
        JdbcDatabase(file).use { it.execute("PRAGMA user_version = 9") }
        assertCode("history-newer") { open() }
    }

    @Test
    fun `what we never made is refused before anything is written`() {
        val surplus = listOf(
            "CREATE TRIGGER keep AFTER DELETE ON events BEGIN SELECT raise(IGNORE); END", "CREATE TABLE kept (item_id TEXT)",
            "CREATE VIEW seen AS SELECT * FROM events", "CREATE INDEX other ON events (event)",
            "CREATE TABLE android_metadata (locale TEXT DEFAULT 'en')", "ALTER TABLE events ADD COLUMN copy TEXT DEFAULT 'x'",
            "DROP INDEX events_item", "PRAGMA user_version = 1", "PRAGMA user_version = -3",
        )
        for (statement in surplus) {
            folder.listFiles()!!.forEach { it.delete() }
            open().use { it.record(Event("a")) }
            JdbcDatabase(file).use { it.query("PRAGMA journal_mode=DELETE"); it.execute(statement) }
            val before = file.readBytes()
            val error = assertThrows(HistoryException::class.java) { open().close() }
            assertTrue(error.code in setOf("history-foreign", "history-corrupt"), "$statement: ${error.code}")
            assertTrue(before.contentEquals(file.readBytes()), statement)
        }
        folder.listFiles()!!.forEach { it.delete() }
        JdbcDatabase(file).use { it.execute("CREATE TABLE android_metadata (locale TEXT)") }
        open().use { assertTrue(it.record(Event("a"))) }
        open().use { assertEquals(1, it.events().size) }
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
