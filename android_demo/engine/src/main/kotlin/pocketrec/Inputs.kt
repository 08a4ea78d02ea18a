package pocketrec

import kotlin.math.max
import kotlin.math.min

/** The events of a history whose items the catalogue has (docs/bundle.md §4, step 1), oldest first. */
internal class Known(val positions: IntArray, val types: IntArray, val times: List<Long?>, val skipped: Int) {
    val size: Int get() = positions.size
}

/** Rows [length, dim] and mask [length] of the graph. */
internal class GraphInput(val rows: FloatArray, val mask: FloatArray)

/** From a history to the rows of the graph. */
internal class Inputs(private val manifest: Manifest, private val items: Table, tensors: Tensors) {
    private val d = manifest.graph.dim
    private val eventRows: FloatArray
    private val gapRows: FloatArray
    private val typeOf = manifest.events.withIndex().associate { it.value to it.index }

    init {
        tensors.only(setOf("events", "gaps", "idf"))
        eventRows = tensors.take("events", "F32", manifest.events.size.toLong(), d.toLong()).floats()
        gapRows = tensors.take("gaps", "F32", manifest.gapSeconds.size + 2L, d.toLong()).floats()
        checkFinite(eventRows, "events of inputs.safetensors")
        checkFinite(gapRows, "gaps of inputs.safetensors")
        val idf = tensors.take("idf", "F32", manifest.words.rows.toLong()).floats()
        checkFinite(idf, "idf of inputs.safetensors", negative = false)
    }

    /** Step 1: the events that count. */
    fun known(events: List<Event>, catalogue: Catalogue): Known {
        val positions = IntArray(events.size) { catalogue.position(events[it].itemId) }
        val keep = events.indices.filter { positions[it] >= 0 }
        return Known(
            IntArray(keep.size) { positions[keep[it]] },
            IntArray(keep.size) { typeOf[events[keep[it]].event] ?: 0 },
            keep.map { events[it].timestamp },
            events.size - keep.size,
        )
    }

    /** Steps 2 to 4. */
    fun fuse(known: Known): GraphInput {
        val length = manifest.graph.length
        val used = min(known.size, length)
        val rows = FloatArray(length * d)
        val mask = FloatArray(length)
        for (i in 0 until used) {
            val event = known.size - used + i
            val at = length - used + i
            items.addRow(known.positions[event], rows, at * d)
            val type = known.types[event] * d
            val gap = bucket(known, event) * d
            for (j in 0 until d) rows[at * d + j] = rows[at * d + j] + eventRows[type + j] + gapRows[gap + j]
            mask[at] = 1f
        }
        return GraphInput(rows, mask)
    }

    /** 0 without two times, else 1 + the number of thresholds that the gap reaches. */
    private fun bucket(known: Known, event: Int): Int {
        val time = known.times[event] ?: return 0
        val before = (if (event == 0) null else known.times[event - 1]) ?: return 0
        val gap = max(0L, time - before)
        return 1 + manifest.gapSeconds.count { it <= gap }
    }
}
