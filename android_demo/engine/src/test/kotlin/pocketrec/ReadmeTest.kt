package pocketrec

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test

/** The three calls of README.md; tests/tools/test_android.py compares the lines. */
class ReadmeTest {
    @Test
    fun `the three calls compile and run`() = runBlocking {
        val bundle = Bundles.file("golden/int8")
        val history = MemoryHistory()
        val rec = Recommender.open(bundle, history)
        rec.record("B004756YJA", event = "view")
        val list = rec.recommend(k = 10)
        assertEquals(10, list.size)
        assertEquals(1, list.skipped)
        rec.close()
    }
}
