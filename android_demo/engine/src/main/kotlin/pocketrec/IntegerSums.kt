package pocketrec

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.IntBuffer
import kotlin.math.max
import kotlin.math.min

/**
 * Exact integer sums of a quantised query over blocks of rows as they lie in the file (docs/bundle.md §6): Σ u · q of an int8 row,
 * Σ u · (nibble − 8) of each group of an int4 row. Both ways give the same; they differ in what a virtual machine makes of them.
 *
 * @property most rows that a block holds.
 */
internal abstract class IntegerSums(protected val d: Int, protected val int4: Boolean, val most: Int) {
    protected val width: Int = if (int4) d / 2 else d
    protected val out: IntArray = IntArray(most * if (int4) d / Table.GROUP else 1)

    /** Copies [count] rows from row [from] of the table on into the block, as its rows [at] and following. */
    abstract fun read(from: Int, count: Int, at: Int)

    /** The sums of the first [count] rows of the block: one a row for int8, d / 32 for int4. */
    abstract fun sums(count: Int): IntArray

    companion object {
        private const val BLOCK_BYTES = 64 shl 10
        private const val BLOCK_INTS = 2 shl 10

        /** For a scan of [total] rows; [words] is for tests. */
        fun of(rows: Tensor, u: IntArray, int4: Boolean, total: Int, words: Boolean = !ART): IntegerSums {
            val width = if (int4) u.size / 2 else u.size
            val fit = (if (words) BLOCK_INTS * 4 else BLOCK_BYTES) / width
            val most = min(total, max(1, fit))
            return if (words) WordSums(rows.view().asIntBuffer(), u, int4, most) else ByteSums(rows.view(), u, int4, most)
        }

        /** ART's compiler knows a loop over bytes as a dot product (never measured here); HotSpot does not, hence [WordSums]. */
        private val ART = System.getProperty("java.vm.name") == "Dalvik"
    }
}

/** The plain loops, over bytes. */
private class ByteSums(private val rows: ByteBuffer, u: IntArray, int4: Boolean, most: Int) : IntegerSums(u.size, int4, most) {
    private val block = ByteArray(most * width)
    private val u = ByteArray(d) { u[it].toByte() }

    override fun read(from: Int, count: Int, at: Int) {
        // As a Buffer: the override in ByteBuffer is of Java 9, and Android 8 lacks it.
        (rows as Buffer).position(from * width)
        rows.get(block, at * width, count * width)
    }

    override fun sums(count: Int): IntArray {
        val group = Table.GROUP / 2
        if (int4) for (i in 0 until count * (width / group)) out[i] = nibbles(block, i * group, u, i * Table.GROUP % d)
        else for (i in 0 until count) out[i] = dot(block, i * d, u)
        return out
    }

    /** At most 4,096 · 127 · 128, so an Int holds it. */
    private fun dot(block: ByteArray, from: Int, u: ByteArray): Int {
        var sum = 0
        for (j in u.indices) sum += block[from + j] * u[j]
        return sum
    }

    private fun nibbles(block: ByteArray, from: Int, u: ByteArray, at: Int): Int {
        var sum = 0
        for (j in 0 until Table.GROUP / 2) {
            val byte = block[from + j].toInt()
            sum += ((byte and 15) - 8) * u[at + 2 * j] + ((byte shr 4 and 15) - 8) * u[at + 2 * j + 1]
        }
        return sum
    }
}

/**
 * Rows as ints of four bytes or eight nibbles. First the products of every int of the block, in one long loop with no sum across
 * lanes: the form that HotSpot turns into vector instructions. Then the sums. A loop over eight nibbles at once it does not turn
 * (measured: 3.9 ns an int, and 0.55 in two loops of four).
 */
private class WordSums(private val rows: IntBuffer, u: IntArray, int4: Boolean, most: Int) : IntegerSums(u.size, int4, most) {
    private val words = width / 4
    private val block = IntArray(most * words)
    private val products = IntArray(block.size)
    private val parts = if (int4) 8 else 4

    /** `factors[k][j]` goes with part k of int j of the block: the query, over and over. */
    private val factors = Array(parts) { k -> IntArray(block.size) { u[it % words * parts + k] } }

    /** What the 8 in nibble − 8 comes to, for each group of the block: those of a row, over and over. */
    private val offsets = IntArray(if (int4) out.size else 0)

    init {
        val groups = d / Table.GROUP
        val ofRow = IntArray(groups) { g -> 8 * (0 until Table.GROUP).sumOf { u[g * Table.GROUP + it] } }
        for (i in offsets.indices) offsets[i] = ofRow[i % groups]
    }

    override fun read(from: Int, count: Int, at: Int) {
        (rows as Buffer).position(from * words)
        rows.get(block, at * words, count * words)
    }

    override fun sums(count: Int): IntArray {
        val size = count * words
        val (a, b, c, e) = factors
        if (!int4) {
            bytes(block, a, b, c, e, products, size)
            for (i in 0 until count) out[i] = sum(products, i * words, (i + 1) * words)
            return out
        }
        low(block, a, b, c, e, products, size)
        high(block, factors[4], factors[5], factors[6], factors[7], products, size)
        fours(products, offsets, size / 4, out)
        return out
    }

    private fun bytes(w: IntArray, a: IntArray, b: IntArray, c: IntArray, e: IntArray, out: IntArray, size: Int) {
        for (j in 0 until size) {
            val x = w[j]
            out[j] = (x shl 24 shr 24) * a[j] + (x shl 16 shr 24) * b[j] + (x shl 8 shr 24) * c[j] + (x shr 24) * e[j]
        }
    }

    private fun low(w: IntArray, a: IntArray, b: IntArray, c: IntArray, e: IntArray, out: IntArray, size: Int) {
        for (j in 0 until size) {
            val x = w[j]
            out[j] = (x and 15) * a[j] + (x ushr 4 and 15) * b[j] + (x ushr 8 and 15) * c[j] + (x ushr 12 and 15) * e[j]
        }
    }

    private fun high(w: IntArray, a: IntArray, b: IntArray, c: IntArray, e: IntArray, out: IntArray, size: Int) {
        for (j in 0 until size) {
            val x = w[j]
            out[j] = out[j] + (x ushr 16 and 15) * a[j] + (x ushr 20 and 15) * b[j] + (x ushr 24 and 15) * c[j] + (x ushr 28) * e[j]
        }
    }

    /** Of a row of int8: a multiple of eight ints, as d is one of 32. */
    private fun sum(x: IntArray, from: Int, to: Int): Int {
        var one = 0
        var other = 0
        var j = from
        while (j < to) {
            one += x[j] + x[j + 1] + (x[j + 2] + x[j + 3])
            other += x[j + 4] + x[j + 5] + (x[j + 6] + x[j + 7])
            j += 8
        }
        return one + other
    }

    /** Of each group of int4: four ints. */
    private fun fours(x: IntArray, less: IntArray, count: Int, out: IntArray) {
        for (i in 0 until count) out[i] = x[4 * i] + x[4 * i + 1] + (x[4 * i + 2] + x[4 * i + 3]) - less[i]
    }
}
