package pocketrec

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNotSame
import org.junit.jupiter.api.Assertions.assertSame
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** The recipe of docs/android.md, "Updates"; tests/tools/test_android.py compares the lines. */
class UpdateTest {
/** The recommender over a bundle that was downloaded; [rec] when it is older, damaged, forged, or answers wrongly. */
suspend fun update(rec: Recommender, downloaded: File, live: File, key: ByteArray, history: () -> History): Recommender {
    val sound = try {
        Recommender.open(downloaded, publicKeys = listOf(key)).use { next -> // a history of its own, in memory
            val now = rec.bundle.manifest
            val then = next.bundle.manifest
            then.modelVersion >= now.modelVersion && then.catalogueVersion >= now.catalogueVersion &&
                Golden.of(next.bundle).replay(next).isEmpty()
        }
    } catch (error: PocketrecException) {
        false
    }
    if (!sound) return rec.also { downloaded.delete() }
    rec.close()
    rec.awaitClosed()
    check(downloaded.renameTo(live)) // this one rename is the update
    return Recommender.open(live, history(), publicKeys = listOf(key))
}

    @Test
    fun `a newer bundle takes over, an older, unsigned or damaged one does not`(@TempDir folder: File) = runBlocking {
        val key = Bundles.file("key").readBytes()
        val live = Bundles.file("golden/signed.zip").copyTo(File(folder, "live"))
        val file = File(folder, "history.db")
        val history = { SqlHistory(JdbcDatabase(file)) }
        val first = Recommender.open(live, history(), publicKeys = listOf(key))
        first.record("called otherwise", timestamp = 5)
        assertTrue(first.recommend().fallback)

        val damaged = File(folder, "damaged").also { it.writeBytes(live.readBytes().apply { this[size / 2]++ }) }
        for (name in listOf("golden/int8", "hostile/sound-zip/bundle.zip")) {
            val bad = File(folder, "bad").also { Bundles.file(name).copyRecursively(it, overwrite = true) }
            assertSame(first, update(first, bad, live, key, history))
            bad.deleteRecursively()
        }
        assertSame(first, update(first, damaged, live, key, history))
        assertFalse(damaged.exists())

        val second = update(first, Bundles.file("later.zip").copyTo(File(folder, "new")), live, key, history)
        assertNotSame(first, second)
        assertEquals(State.CLOSED, first.state.value)
        assertEquals(2, second.bundle.manifest.catalogueVersion)
        assertFalse(second.recommend().fallback) // by the former name of an item
        assertSame(second, update(second, Bundles.file("golden/signed.zip").copyTo(File(folder, "old")), live, key, history))
        second.close()
        second.awaitClosed()
    }
}
