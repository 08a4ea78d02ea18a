package pocketrec

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assertions.fail
import org.junit.jupiter.api.Test

class RecommenderTest {
    private fun opened(engine: EngineFactory = Engines.KOTLIN, test: suspend (Recommender) -> Unit) = runBlocking {
        Recommender.open(Bundles.file("golden/mixed"), engine = engine).use { test(it) }
    }

    private suspend fun code(block: suspend () -> Unit): String = try {
        block()
        "none"
    } catch (error: PocketrecException) {
        error.code
    }

    @Test
    fun `three calls`() = opened { rec ->
        val popular = rec.recommend(k = 3)
        assertTrue(popular.fallback)
        rec.record(popular[0].itemId, event = "view")
        val list = rec.recommend(k = 10)
        assertFalse(list.fallback)
        assertEquals("kotlin", list.engine)
        assertEquals(10, list.size)
        assertFalse(popular[0].itemId in list.map { it.itemId })
        assertTrue(list.zipWithNext().all { (a, b) -> a.score >= b.score })
        assertEquals(list, rec.rank(rec.events()))
    }

    @Test
    fun `candidates, exclusions and time are respected`() = opened { rec ->
        val all = rec.rank(eventsOf("i37", "gone"), k = 100)
        assertEquals(1, all.skipped)
        assertEquals(49, all.size)
        val some = all.takeLast(7).map { it.itemId }
        val subset = rec.rank(eventsOf("i37"), candidates = some.shuffled() + some, exclude = listOf(some[3], "gone"))
        assertEquals(all.takeLast(7).filter { it.itemId != some[3] }, subset)
        assertEquals(50, rec.rank(eventsOf("i37"), k = 100, filterSeen = false).size)
        assertTrue(rec.rank(listOf(Event("i37", "", 9)), at = 8).fallback)
        assertEquals(emptyList<Recommendation>(), rec.rank(eventsOf("i37"), candidates = emptyList()))
        assertEquals("candidate-unknown", code { rec.rank(emptyList(), candidates = listOf("gone")) })
        assertEquals("k-invalid", code { rec.rank(emptyList(), k = 0) })
    }

    @Test
    fun `similar items are by cosine, the item itself left out`() = opened { rec ->
        val list = rec.similarItems("i37", k = 100)
        assertEquals(49, list.size)
        assertTrue(list.all { it.score in -1.001f..1.001f && it.itemId != "i37" })
        assertEquals(list[0].score, rec.similarItems(list[0].itemId, k = 100).first { it.itemId == "i37" }.score, 0.02f)
        assertEquals("item-unknown", code { rec.similarItems("gone") })
    }

    @Test
    fun `the lifecycle is observed, and a closed one refuses`() = runBlocking {
        val seen = ArrayList<State>()
        lateinit var flow: StateFlow<State>
        val watching = EngineFactory { bundle -> seen.add(flow.value); Engines.KOTLIN.load(bundle) }
        val rec = Recommender.open(Bundles.file("golden/int8"), engine = watching) { seen.add(it.value); flow = it }
        seen.add(flow.value)
        rec.close()
        rec.close()
        seen.add(flow.value)
        rec.awaitClosed()
        assertEquals(listOf(State.UNLOADED, State.LOADING, State.READY, State.CLOSED), seen)
        assertEquals("closed", code { rec.recommend() })
        assertEquals("closed", code { rec.record("a") })
    }

    @Test
    fun `a bundle that is refused closes the history`() = runBlocking {
        var closed = false
        val history = object : History by MemoryHistory() {
            override fun close() { closed = true }
        }
        val failing = EngineFactory { throw PocketrecException("no", "engine-unavailable") }
        assertEquals(
            "engine-unavailable", code { Recommender.open(Bundles.file("golden/int8"), history, failing) },
        )
        assertTrue(closed)
        assertEquals("bundle-missing", code { Recommender.open(Bundles.file("golden/none")) })
    }

    @Test
    fun `a cancelled call stops inside the engine, and the next one runs`() = runBlocking {
        val begun = CompletableDeferred<Unit>()
        val slow = EngineFactory { bundle ->
            val inner = Engines.KOTLIN.load(bundle)
            object : Engine by inner {
                override fun run(rows: FloatArray, mask: FloatArray, checkpoint: () -> Unit): FloatArray {
                    if (mask.count { it == 1f } == 2) {
                        begun.complete(Unit)
                        while (true) checkpoint() // ends only by cancellation
                    }
                    return inner.run(rows, mask, checkpoint)
                }
            }
        }
        Recommender.open(Bundles.file("golden/int8"), engine = slow).use { rec ->
            val job = launch(Dispatchers.Default) {
                try {
                    rec.rank(eventsOf("i37", "i24"))
                    fail<Unit>("it came to an end")
                } catch (expected: CancellationException) {
                    throw expected
                }
            }
            withTimeout(30_000) {
                begun.await()
                job.cancelAndJoin()
                assertEquals(10, rec.rank(eventsOf("i37")).size)
            }
        }
    }

    @Test
    fun `many callers at once lose nothing`() = opened { rec ->
        runBlocking(Dispatchers.Default) {
            (0 until 64).map { async { rec.record("item-$it"); rec.recommend(3) } }.awaitAll()
        }
        assertEquals(64, rec.events().size)
        assertEquals(1, rec.forget("item-5"))
        assertEquals(63, rec.clear())
    }

    @Test
    fun `both engines give the same list`() = opened { kotlin ->
        opened(Engines.ONNX_RUNTIME) { onnx ->
            val history = eventsOf("i37", "i24", "i11", "é00")
            val a = kotlin.rank(history, k = 50)
            val b = onnx.rank(history, k = 50)
            assertEquals(a.map { it.itemId }.toSet(), b.map { it.itemId }.toSet())
            for ((x, y) in a.zip(b)) assertEquals(x.score, y.score, 0.02f)
        }
    }
}
