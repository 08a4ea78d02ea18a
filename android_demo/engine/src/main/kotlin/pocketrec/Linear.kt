package pocketrec

import kotlin.math.max
import kotlin.math.min

/** One linear layer, [inputs] to [outputs] numbers a row, in one of the forms of docs/bundle.md §5. */
internal abstract class Linear(val inputs: Int, val outputs: Int) {
    /** y [rows, outputs] of x [rows, inputs]. */
    abstract fun apply(x: FloatArray, rows: Int, y: FloatArray)

    companion object {
        /** The linear [name] of `backbone.safetensors`, in whichever form it is there. */
        fun read(tensors: Tensors, name: String, outputs: Int, inputs: Int): Linear {
            val half = listOf("$name.a", "$name.a.q").firstOrNull { it in tensors }
            return if (half == null) whole(tensors, name, outputs, inputs) else lowRank(tensors, name, half, outputs, inputs)
        }

        private fun lowRank(tensors: Tensors, name: String, half: String, outputs: Int, inputs: Int): Linear {
            val rank = tensors[half].shape.firstOrNull() ?: 0
            if (rank !in 1..minOf(outputs, inputs)) throw tensors.fault("\"$half\" has the rank $rank")
            return LowRankLinear(
                whole(tensors, "$name.a", rank.toInt(), inputs), whole(tensors, "$name.b", outputs, rank.toInt()),
            )
        }

        private fun whole(tensors: Tensors, name: String, outputs: Int, inputs: Int): Linear {
            val (out, inner) = listOf(outputs.toLong(), inputs.toLong())
            if (name in tensors) return FloatLinear(tensors.take(name, "F32", out, inner).floats(), outputs, inputs)
            if (tensors["$name.q"].dtype == "I8") {
                val q = tensors.take("$name.q", "I8", out, inner).byteArray()
                return IntegerLinear(q, tensors.take("$name.scale", "F32", out).floats(), outputs, inputs, inputs, false)
            }
            val group = Table.GROUP
            if (inputs % group != 0) throw tensors.fault("\"$name\" has $inputs inputs, no multiple of $group")
            val packed = tensors.take("$name.q", "U8", out, inner / 2).byteArray()
            val scale = tensors.take("$name.scale", "F32", out, inner / group).floats()
            val q = ByteArray(outputs * inputs) { ((packed[it / 2].toInt() shr (4 * (it and 1)) and 15) - 8).toByte() }
            return IntegerLinear(q, scale, outputs, inputs, group, true)
        }
    }
}

/**
 * out[j] += Σ x[at + i] · w[i][j] for the inputs [from] until [to]: the one loop that everything heavy here is made of.
 *
 * It goes along j, over memory in order and without a sum across lanes, in arrays of their own: the form that HotSpot turns into
 * vector instructions (one array with four offsets it does not: five times slower). Four inputs at a time, so that `out` is
 * loaded and stored a quarter as often.
 */
internal fun accumulate(x: FloatArray, at: Int, w: Array<FloatArray>, from: Int, to: Int, out: FloatArray) {
    var i = from
    while (i + 4 <= to) {
        four(x[at + i], x[at + i + 1], x[at + i + 2], x[at + i + 3], w[i], w[i + 1], w[i + 2], w[i + 3], out)
        i += 4
    }
    while (i < to) {
        one(x[at + i], w[i], out)
        i++
    }
}

private fun four(
    a: Float, b: Float, c: Float, d: Float, wa: FloatArray, wb: FloatArray, wc: FloatArray, wd: FloatArray, out: FloatArray,
) {
    for (j in out.indices) out[j] = out[j] + a * wa[j] + b * wb[j] + c * wc[j] + d * wd[j]
}

private fun one(a: Float, w: FloatArray, out: FloatArray) {
    for (j in out.indices) out[j] = out[j] + a * w[j]
}

/** Weights [out, in] as one array of floats for each input, the order that `accumulate` walks in. */
private inline fun transposed(outputs: Int, inputs: Int, weight: (Int) -> Float): Array<FloatArray> {
    val w = Array(inputs) { FloatArray(outputs) }
    for (o in 0 until outputs) for (i in 0 until inputs) w[i][o] = weight(o * inputs + i)
    return w
}

/** Two linears, one after the other, each with the arithmetic of its own form. */
private class LowRankLinear(private val a: Linear, private val b: Linear) : Linear(a.inputs, b.outputs) {
    override fun apply(x: FloatArray, rows: Int, y: FloatArray) {
        val middle = FloatArray(rows * a.outputs)
        a.apply(x, rows, middle)
        b.apply(middle, rows, y)
    }
}

private class FloatLinear(weight: FloatArray, outputs: Int, inputs: Int) : Linear(inputs, outputs) {
    private val w = transposed(outputs, inputs) { weight[it] }

    override fun apply(x: FloatArray, rows: Int, y: FloatArray) {
        val sum = FloatArray(outputs)
        for (r in 0 until rows) {
            sum.fill(0f)
            accumulate(x, r * inputs, w, 0, inputs, sum)
            System.arraycopy(sum, 0, y, r * outputs, outputs)
        }
    }
}

/**
 * 8-bit activations against integer weights, one scale for each output and [group] inputs.
 *
 * The integers are held as floats: |a − z| ≤ 255 and |q| ≤ 128, so a sum over 512 inputs stays below 2^24 and is exact in
 * float32, in any order. Longer sums go on in a Long array. Four bytes a weight while the engine is open, for the speed.
 */
private class IntegerLinear(
    q: ByteArray, scale: FloatArray, outputs: Int, inputs: Int, private val group: Int, private val grouped: Boolean,
) : Linear(inputs, outputs) {
    private val w = transposed(outputs, inputs) { q[it].toFloat() }
    private val scales = transposed(outputs, inputs / group) { scale[it] } // [groups, out]

    override fun apply(x: FloatArray, rows: Int, y: FloatArray) {
        val centred = FloatArray(inputs)
        val sum = FloatArray(outputs)
        val out = FloatArray(outputs)
        for (r in 0 until rows) {
            val s = quantise(x, r * inputs, centred)
            if (grouped) {
                out.fill(0f)
                for (g in 0 until inputs / group) {
                    sum.fill(0f)
                    accumulate(centred, 0, w, g * group, (g + 1) * group, sum)
                    val scale = scales[g]
                    for (j in 0 until outputs) out[j] += sum[j] * scale[j]
                }
                for (j in 0 until outputs) y[r * outputs + j] = out[j] * s
            } else {
                whole(centred, sum)
                val scale = scales[0]
                for (j in 0 until outputs) y[r * outputs + j] = sum[j] * s * scale[j]
            }
        }
    }

    private fun whole(centred: FloatArray, sum: FloatArray) {
        sum.fill(0f)
        if (inputs <= EXACT) {
            accumulate(centred, 0, w, 0, inputs, sum)
            return
        }
        val total = LongArray(outputs)
        for (from in 0 until inputs step EXACT) {
            sum.fill(0f)
            accumulate(centred, 0, w, from, min(from + EXACT, inputs), sum)
            for (j in 0 until outputs) total[j] += sum[j].toLong()
        }
        for (j in 0 until outputs) sum[j] = total[j].toFloat()
    }

    /** a − z of one row into [centred]; gives s. */
    private fun quantise(x: FloatArray, at: Int, centred: FloatArray): Float {
        var low = 0f
        var high = 0f
        for (i in 0 until inputs) {
            low = min(low, x[at + i])
            high = max(high, x[at + i])
        }
        var s = (high - low) / 255f
        if (s == 0f) s = 1f
        val zero = Math.rint((-128f - low / s).toDouble()).coerceIn(-128.0, 127.0)
        for (i in 0 until inputs) {
            val a = Math.rint((x[at + i] / s).toDouble()) + zero
            centred[i] = (a.coerceIn(-128.0, 127.0) - zero).toFloat()
        }
        return s
    }

    private companion object {
        const val EXACT = 512
    }
}
