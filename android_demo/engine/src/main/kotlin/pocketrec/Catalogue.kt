package pocketrec

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.LongBuffer

/**
 * Item ids, display columns and prior over memory maps (docs/bundle.md §7). Nothing is parsed at the start; an id is found by
 * binary search.
 *
 * @property size number of items; a position is the row in the item table.
 * @property columns names of the display columns.
 */
public class Catalogue internal constructor(tensors: Tensors, public val size: Int, public val columns: List<String>) {
    internal val prior: FloatArray
    private val seen: Tensor
    private val texts: Map<String, Column>
    private val order: IntArray

    private class Column(val data: ByteBuffer, val offsets: LongBuffer) {
        fun start(position: Int): Int = offsets.get(position).toInt()
    }

    init {
        val n = size.toLong()
        val names = listOf(ID) + columns
        tensors.only(names.flatMap { listOf("$it.bytes", "$it.offsets") }.toSet() + setOf("prior", "seen", "$ID.order"))
        prior = tensors.take("prior", "F32", n).floats()
        checkFinite(prior, "prior of $FILE", negative = false)
        seen = tensors.take("seen", "U32", n)
        texts = names.associateWith { column(tensors, it) }
        order = tensors.take("$ID.order", "I32", n).ints()
        checkIds()
    }

    /** The id of the item at [position]. */
    public fun itemId(position: Int): String = text(ID, position)

    /** The entry of a display column at [position]. */
    public fun text(column: String, position: Int): String = String(raw(texts.getValue(column), position), Charsets.UTF_8)

    /** Training interactions of the item at [position]. */
    public fun seen(position: Int): Long = seen.bytes.getInt(4 * position).toLong() and 0xffffffffL

    /** Where the item is, or −1 when the catalogue lacks it. */
    public fun position(itemId: String): Int {
        val wanted = itemId.toByteArray()
        val ids = texts.getValue(ID)
        var low = 0
        var high = size - 1
        while (low <= high) {
            val middle = (low + high) ushr 1
            val sign = compare(raw(ids, order[middle]), wanted)
            if (sign == 0) return order[middle]
            if (sign < 0) low = middle + 1 else high = middle - 1
        }
        return -1
    }

    private fun raw(column: Column, position: Int): ByteArray {
        val start = column.start(position)
        val out = ByteArray(column.start(position + 1) - start)
        val view = column.data.duplicate()
        (view as Buffer).position(start)
        view.get(out)
        return out
    }

    private fun column(tensors: Tensors, name: String): Column {
        val data = tensors.take("$name.bytes", "U8", -1).bytes
        val offsets = tensors.take("$name.offsets", "I64", size + 1L).view().asLongBuffer()
        val total = data.remaining()
        var before = 0L
        for (i in 0..size) {
            val offset = offsets.get(i)
            if (offset < before || offset > total || (i == 0 && offset != 0L)) fail("the offsets of $name do not rise from 0")
            before = offset
            val inside = offset < total && i < size
            if (inside && data.get(offset.toInt()).toInt() and 0xc0 == 0x80) fail("an entry of $name starts inside a character")
        }
        if (before != total.toLong()) fail("the offsets of $name do not end at $total")
        val decoder = Charsets.UTF_8.newDecoder() // reports what is malformed
        val view = data.duplicate()
        val out = CharBuffer.allocate(1 shl 13)
        do {
            val result = decoder.decode(view, out, true)
            if (result.isError) fail("the column $name is not UTF-8")
            (out as Buffer).clear()
        } while (result.isOverflow)
        return Column(data, offsets)
    }

    /** Ids must be short, not empty and unique, and `order` must sort them: strictly rising ids at n positions do both. */
    private fun checkIds() {
        val ids = texts.getValue(ID)
        var before: ByteArray? = null
        for (position in order) {
            if (position !in 0 until size) fail("$ID.order points outside the catalogue")
            val length = ids.start(position + 1) - ids.start(position)
            if (length !in 1..Limits.ID_BYTES) fail("an item id is empty or longer than ${Limits.ID_BYTES} bytes")
            val id = raw(ids, position)
            if (before != null && compare(before, id) >= 0) fail("item ids are not unique, or $ID.order does not sort them")
            before = id
        }
    }

    private companion object {
        const val ID = "item_id"
        const val FILE = "catalogue.safetensors"

        fun compare(a: ByteArray, b: ByteArray): Int {
            for (i in 0 until minOf(a.size, b.size)) {
                if (a[i] != b[i]) return (a[i].toInt() and 255) - (b[i].toInt() and 255)
            }
            return a.size - b.size
        }

        fun fail(what: String): Nothing =
            throw BundleException("$FILE: $what.", "catalogue-invalid", "Build the bundle again.")
    }
}
