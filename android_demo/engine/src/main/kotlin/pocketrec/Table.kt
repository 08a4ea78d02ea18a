package pocketrec

import java.nio.Buffer
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/** Called between blocks of long work; throws when nobody wants the result any more. */
internal fun interface Checkpoint {
    fun check()
}

/**
 * Rows on the device, looked up and scanned (docs/bundle.md §3 and §6). Integers stay in the memory map; a scan copies one block
 * of rows at a time into a scratch array that fits the cache. Thread-safe: it holds no state but the lengths of rows.
 */
internal class Table(spec: TableSpec, tensors: Tensors) {
    val n = spec.rows
    val d = spec.dim
    val scheme = spec.scheme
    private val width: Int
    private val rows: Tensor
    private val scale: Tensor?
    private var lengths: FloatArray? = null

    init {
        val n = n.toLong()
        when (scheme) {
            "fp32" -> {
                tensors.only(setOf("rows"))
                width = 4 * d
                rows = tensors.take("rows", "F32", n, d.toLong())
                scale = null
                eachBlock(null, {}) { _, count, block ->
                    for (i in 0 until count * d) {
                        val value = floatAt(block, 4 * i)
                        if (value.isNaN() || value.isInfinite()) invalid("rows of ${spec.file}")
                    }
                }
            }
            else -> {
                val int8 = scheme == "int8"
                tensors.only(setOf("q", "scale"))
                width = if (int8) d else d / 2
                rows = tensors.take("q", if (int8) "I8" else "U8", n, width.toLong())
                scale = if (int8) tensors.take("scale", "F32", n) else tensors.take("scale", "F16", n, (d / GROUP).toLong())
                for (i in 0 until if (int8) this.n else Math.multiplyExact(this.n, d / GROUP)) {
                    val value = scaleAt(i)
                    if (value.isNaN() || value.isInfinite() || value < 0f) invalid("scale of ${spec.file}")
                }
            }
        }
    }

    /** Adds row [position] to [out] from [offset] on: d numbers. */
    fun addRow(position: Int, out: FloatArray, offset: Int) {
        val block = ByteArray(width)
        copy(position, 1, block)
        dequantise(block, 0, position) { j, value -> out[offset + j] += value }
    }

    /**
     * The score of every row against [query], or of the rows [subset] only, in their order.
     *
     * Throws `query-invalid` when the query is not finite and `scores-invalid` when a score is not.
     */
    fun scores(query: FloatArray, subset: IntArray?, checkpoint: Checkpoint): FloatArray {
        if (query.size != d || query.any { it.isNaN() || it.isInfinite() }) {
            throw PocketrecException(
                "the engine gave a query that is not $d finite numbers.", "query-invalid",
                "Run `pocketrec verify` on the bundle.",
            )
        }
        val out = FloatArray(subset?.size ?: n)
        when (scheme) {
            "fp32" -> scanFp32(query, subset, out, checkpoint)
            else -> {
                val t = queryScale(query)
                val u = IntArray(d) { Math.rint((query[it] / t).toDouble()).coerceIn(-127.0, 127.0).toInt() }
                scanIntegers(t, u, subset, out, checkpoint)
            }
        }
        if (out.any { it.isNaN() || it.isInfinite() }) {
            throw PocketrecException(
                "a score is not finite: the scales of the table are out of all proportion.", "scores-invalid",
                "Build the bundle again.",
            )
        }
        return out
    }

    /** The Euclidean length of every row; computed at the first call, then kept (four bytes a row). */
    @Synchronized
    fun norms(checkpoint: Checkpoint): FloatArray = lengths ?: FloatArray(n).also { out ->
        eachBlock(null, checkpoint) { start, count, block ->
            for (i in 0 until count) {
                var sum = 0.0
                dequantise(block, i * width, start + i) { _, value -> sum += value.toDouble() * value }
                out[start + i] = sqrt(sum).toFloat()
            }
        }
        lengths = out
    }

    private fun scanFp32(query: FloatArray, subset: IntArray?, out: FloatArray, checkpoint: Checkpoint) =
        eachBlock(subset, checkpoint) { start, count, block ->
            for (i in 0 until count) {
                var sum = 0.0
                for (j in 0 until d) sum += query[j].toDouble() * floatAt(block, i * width + 4 * j)
                out[start + i] = sum.toFloat()
            }
        }

    private fun scanIntegers(t: Float, u: IntArray, subset: IntArray?, out: FloatArray, checkpoint: Checkpoint) {
        val total = subset?.size ?: n
        if (total == 0) return
        val block = IntegerSums.of(rows, u, scheme == "int4", total)
        val perRow = if (scheme == "int8") 1 else d / GROUP
        val scales = FloatArray(block.most * perRow)
        val read = scaleReader(scales)
        var start = 0
        while (start < total) {
            checkpoint.check()
            val count = min(block.most, total - start)
            if (subset == null) {
                block.read(start, count, 0)
                read(start * perRow, count * perRow, 0)
            } else {
                for (i in 0 until count) {
                    block.read(subset[start + i], 1, i)
                    read(subset[start + i] * perRow, perRow, i * perRow)
                }
            }
            val sums = block.sums(count)
            if (scheme == "int8") scale(sums, scales, t, count, out, start) else weigh(sums, scales, perRow, t, count, out, start)
            start += count
        }
    }

    /** Copies (from, count, at): scales from one on into [into], from a place on. A buffer's bulk read is ten times single ones. */
    private fun scaleReader(into: FloatArray): (Int, Int, Int) -> Unit {
        val view = scale!!.view()
        if (scheme == "int8") {
            val floats = view.asFloatBuffer()
            return { from, count, at ->
                (floats as Buffer).position(from)
                floats.get(into, at, count)
            }
        }
        val shorts = view.asShortBuffer()
        val halves = ShortArray(into.size)
        return { from, count, at ->
            (shorts as Buffer).position(from)
            shorts.get(halves, 0, count)
            for (i in 0 until count) into[at + i] = scaleOfHalf(halves[i])
        }
    }

    private fun scale(sums: IntArray, scales: FloatArray, t: Float, count: Int, out: FloatArray, to: Int) {
        for (i in 0 until count) out[to + i] = sums[i].toFloat() * (t * scales[i])
    }

    /** Σ scale · sum over the groups of each row of int4, in their order; four at a time, as a loop of four costs more than its work. */
    private fun weigh(sums: IntArray, scales: FloatArray, groups: Int, t: Float, count: Int, out: FloatArray, to: Int) {
        var g = 0
        for (i in 0 until count) {
            val end = g + groups
            var sum = 0.0
            while (g + 4 <= end) {
                sum += scales[g].toDouble() * sums[g]
                sum += scales[g + 1].toDouble() * sums[g + 1]
                sum += scales[g + 2].toDouble() * sums[g + 2]
                sum += scales[g + 3].toDouble() * sums[g + 3]
                g += 4
            }
            while (g < end) sum += scales[g].toDouble() * sums[g++]
            out[to + i] = sum.toFloat() * t
        }
    }

    private inline fun dequantise(block: ByteArray, from: Int, row: Int, put: (Int, Float) -> Unit) {
        when (scheme) {
            "fp32" -> for (j in 0 until d) put(j, floatAt(block, from + 4 * j))
            "int8" -> {
                val s = scaleAt(row)
                for (j in 0 until d) put(j, block[from + j] * s)
            }
            else -> for (j in 0 until d) {
                val nibble = block[from + j / 2].toInt() shr (4 * (j and 1)) and 15
                put(j, (nibble - 8) * scaleAt(row * (d / GROUP) + j / GROUP))
            }
        }
    }

    private fun scaleAt(index: Int): Float {
        val bytes = scale!!.bytes
        return if (scheme == "int8") bytes.getFloat(4 * index) else halfToFloat(bytes.getShort(2 * index))
    }

    /** Calls [use] with (index of the first, count, bytes) of block after block of the rows, or of the rows [subset]. */
    private inline fun eachBlock(subset: IntArray?, checkpoint: Checkpoint, use: (Int, Int, ByteArray) -> Unit) {
        val total = subset?.size ?: n
        val step = max(1, BLOCK_BYTES / width)
        val block = ByteArray(min(step, total) * width)
        val view = rows.view()
        var start = 0
        while (start < total) {
            checkpoint.check()
            val count = min(step, total - start)
            if (subset == null) {
                // As a Buffer: the override in ByteBuffer is of Java 9, and Android 8 lacks it.
                (view as Buffer).position(start * width)
                view.get(block, 0, count * width)
            } else {
                for (i in 0 until count) {
                    (view as Buffer).position(subset[start + i] * width)
                    view.get(block, i * width, width)
                }
            }
            use(start, count, block)
            start += count
        }
    }

    private fun copy(position: Int, count: Int, block: ByteArray) {
        val view = rows.view()
        (view as Buffer).position(position * width)
        view.get(block, 0, count * width)
    }

    internal companion object {
        const val GROUP = 32
        private const val BLOCK_BYTES = 64 shl 10

        fun queryScale(query: FloatArray): Float {
            var most = 0f
            for (value in query) most = max(most, abs(value))
            val t = most / 127f
            return if (t == 0f) 1f else t
        }

        private fun floatAt(block: ByteArray, at: Int): Float = Float.fromBits(
            block[at].toInt() and 255 or (block[at + 1].toInt() and 255 shl 8) or
                (block[at + 2].toInt() and 255 shl 16) or (block[at + 3].toInt() shl 24),
        )

        private fun invalid(what: String): Nothing = throw BundleException(
            "$what holds a value that is not finite, or a negative scale.", "values-invalid", "Build the bundle again.",
        )
    }
}
