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
public class Catalogue internal constructor(
    tensors: Tensors, public val size: Int, public val columns: List<String>, requires: Collection<String> = emptyList(),
) {
    internal val prior: FloatArray
    private val seen: Tensor
    private val texts: Map<String, Column>
    private val order: IntArray
    private val retired: BooleanArray
    private val formerly: Map<String, Int>

    private class Column(val data: ByteBuffer, val offsets: LongBuffer) {
        fun start(position: Int): Int = offsets.get(position).toInt()
    }

    init {
        val n = size.toLong()
        val names = listOf(ID) + columns
        val texts = names + if ("renamed" in requires) listOf(OLD, NEW) else emptyList()
        val plain = listOf("prior", "seen", "$ID.order") + if ("retired" in requires) listOf(RETIRED) else emptyList()
        tensors.only(texts.flatMap { listOf("$it.bytes", "$it.offsets") }.toSet() + plain)
        prior = tensors.take("prior", "F32", n).floats()
        checkFinite(prior, "prior of $FILE", negative = false)
        seen = tensors.take("seen", "U32", n)
        this.texts = names.associateWith { column(tensors, it, size) }
        order = tensors.take("$ID.order", "I32", n).ints()
        checkIds()
        retired = if ("retired" in requires) flags(tensors.take(RETIRED, "U8", n).byteArray()) else BooleanArray(size)
        formerly = if ("renamed" in requires) formerly(tensors) else emptyMap()
    }

    /** The id of the item at [position]. */
    public fun itemId(position: Int): String = text(ID, position)

    /** The entry of a display column at [position]. */
    public fun text(column: String, position: Int): String = String(raw(texts.getValue(column), position), Charsets.UTF_8)

    /** Training interactions of the item at [position]. */
    public fun seen(position: Int): Long = seen.bytes.getInt(4 * position).toLong() and 0xffffffffL

    /** Whether the item at [position] is not sold any more: it is read in a history, and never ranked. */
    public fun retired(position: Int): Boolean = retired[position]

    /** A copy of [retired] for all positions. */
    internal fun retired(): BooleanArray = retired.copyOf()

    /** Where the item is, also by a name that it had before; −1 when the catalogue lacks it. */
    public fun position(itemId: String): Int {
        val found = find(itemId)
        return if (found < 0) formerly[itemId] ?: -1 else found
    }

    private fun find(itemId: String): Int {
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

    private fun flags(raw: ByteArray) = BooleanArray(raw.size) {
        if (raw[it].toInt() !in 0..1) fail("a flag of a retired item is neither 0 nor 1")
        raw[it].toInt() == 1
    }

    /** Former ids, and where their items are. */
    private fun formerly(tensors: Tensors): Map<String, Int> {
        val count = tensors.take("$OLD.offsets", "I64", -1).shape[0] - 1
        if (count !in 0..MAX_RENAMED) fail("$count items are renamed; at most $MAX_RENAMED may be")
        val (old, new) = listOf(OLD, NEW).map { name ->
            val column = column(tensors, name, count.toInt())
            List(count.toInt()) { String(raw(column, it), Charsets.UTF_8) }
        }
        val out = HashMap<String, Int>()
        for ((before, now) in old.zip(new)) {
            val position = find(now)
            if (before.isEmpty() || find(before) >= 0 || position < 0) {
                fail("\"$before\", renamed to \"$now\", is empty or there still, or its new name is not")
            }
            if (out.put(before, position) != null) fail("\"$before\" is renamed twice")
        }
        return out
    }

    private fun raw(column: Column, position: Int): ByteArray {
        val start = column.start(position)
        val out = ByteArray(column.start(position + 1) - start)
        val view = column.data.duplicate()
        (view as Buffer).position(start)
        view.get(out)
        return out
    }

    private fun column(tensors: Tensors, name: String, size: Int): Column {
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
        const val RETIRED = "retired.flags"
        const val OLD = "renamed.old"
        const val NEW = "renamed.new"
        const val MAX_RENAMED = 1L shl 20

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
