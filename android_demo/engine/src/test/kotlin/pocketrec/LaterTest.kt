package pocketrec

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

/** Retired and renamed items, in a bundle that Python's `install` made of a catalogue delta (docs/updates.md). */
class LaterTest {
    private val bundle = Bundles.file("golden/later")
    private val python = Json.parse(Bundles.file("later.json").readBytes(), "later.json") as Map<*, *>
    private val retired = python["retired"] as List<*>

    private fun opened(test: suspend (Recommender) -> Unit) = runBlocking { Recommender.open(bundle).use { test(it) } }

    @Test
    fun `retired items are read in a history and never ranked`() = opened { rec ->
        assertEquals(2, retired.size)
        for (id in retired) assertTrue(rec.bundle.catalogue.retired(rec.bundle.catalogue.position(id as String)))
        val all = rec.rank(eventsOf(retired[0] as String), k = 100, filterSeen = false)
        assertFalse(all.fallback)
        assertEquals(0, all.skipped)
        assertEquals(rec.bundle.catalogue.size - retired.size, all.size)
        for (list in listOf(all, rec.rank(emptyList(), k = 100))) assertTrue(list.none { it.itemId in retired })
        assertEquals(emptyList<Recommendation>(), rec.rank(emptyList(), candidates = retired.map { it as String }))
    }

    @Test
    fun `a former name stands for the item of today`() = opened { rec ->
        val catalogue = rec.bundle.catalogue
        val former = "called otherwise"
        val now = catalogue.itemId(catalogue.position(former))
        assertFalse(now == former)
        assertEquals(rec.rank(eventsOf(now), k = 100), rec.rank(eventsOf(former), k = 100))
        assertEquals(rec.similarItems(now), rec.similarItems(former))
        assertTrue(rec.rank(emptyList(), k = 100, exclude = listOf(former)).none { it.itemId == now })
        assertEquals(listOf(now), rec.rank(emptyList(), candidates = listOf(former, now)).map { it.itemId })
        assertEquals(python["skipped"], rec.rank(eventsOf(former, "é formerly", "nobody")).skipped.toLong())
    }

    @Test
    fun `similar items are those of Python`() = opened { rec ->
        for ((id, wanted) in python["similar"] as Map<*, *>) {
            assertEquals(wanted, rec.similarItems(id as String, k = 100).map { it.itemId })
        }
    }
}
