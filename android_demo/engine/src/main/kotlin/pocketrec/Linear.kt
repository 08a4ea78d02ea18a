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
            val (out, inner) = listOf(outputs.toLong(), inputs.toLong())
            if (name in tensors) return FloatLinear(tensors.take(name, "F32", out, inner).floats(), outputs, inputs)
            if (tensors["$name.q"].dtype == "I8") {
                val q = tensors.take("$name.q", "I8", out, inner).byteArray()
                return IntegerLinear(q, tensors.take("$name.scale", "F32", out).floats(), outputs, inputs, inputs, false)
            }
            val group = Table.GROUP
            val packed = tensors.take("$name.q", "U8", out, inner / 2).byteArray()
            val scale = tensors.take("$name.scale", "F32", out, inner / group).floats()
            val q = ByteArray(outputs * inputs) { ((packed[it / 2].toInt() shr (4 * (it and 1)) and 15) - 8).toByte() }
            return IntegerLinear(q, scale, outputs, inputs, group, true)
        }
    }
}

/**
 * out[j] += Σ x[i] · w[i, j] for the inputs [from] until [to]: the one loop that everything heavy here is made of.
 *
 * It goes along j, over memory in order and without a sum across lanes: the form that both HotSpot and ART turn into vector
 * instructions. Four inputs at a time, so that `out` is loaded and stored a quarter as often.
 */
internal fun accumulate(x: FloatArray, at: Int, w: FloatArray, width: Int, from: Int, to: Int, out: FloatArray) {
    var i = from
    while (i + 4 <= to) {
        val a = x[at + i]
        val b = x[at + i + 1]
        val c = x[at + i + 2]
        val d = x[at + i + 3]
        val w0 = i * width
        val w1 = w0 + width
        val w2 = w1 + width
        val w3 = w2 + width
        for (j in 0 until width) out[j] += a * w[w0 + j] + b * w[w1 + j] + (c * w[w2 + j] + d * w[w3 + j])
        i += 4
    }
    while (i < to) {
        val a = x[at + i]
        val w0 = i * width
        for (j in 0 until width) out[j] += a * w[w0 + j]
        i++
    }
}

/** Weights [out, in] as floats [in, out], the order that `accumulate` walks in. */
private inline fun transposed(outputs: Int, inputs: Int, weight: (Int) -> Float) =
    FloatArray(inputs * outputs).also {
        for (o in 0 until outputs) for (i in 0 until inputs) it[i * outputs + o] = weight(o * inputs + i)
    }

private class FloatLinear(weight: FloatArray, outputs: Int, inputs: Int) : Linear(inputs, outputs) {
    private val w = transposed(outputs, inputs) { weight[it] }

    override fun apply(x: FloatArray, rows: Int, y: FloatArray) {
        val sum = FloatArray(outputs)
        for (r in 0 until rows) {
            sum.fill(0f)
            accumulate(x, r * inputs, w, outputs, 0, inputs, sum)
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
                    accumulate(centred, 0, w, outputs, g * group, (g + 1) * group, sum)
                    val at = g * outputs
                    for (j in 0 until outputs) out[j] += sum[j] * scales[at + j]
                }
                for (j in 0 until outputs) y[r * outputs + j] = out[j] * s
            } else {
                whole(centred, sum)
                for (j in 0 until outputs) y[r * outputs + j] = sum[j] * s * scales[j]
            }
        }
    }

    private fun whole(centred: FloatArray, sum: FloatArray) {
        sum.fill(0f)
        if (inputs <= EXACT) {
            accumulate(centred, 0, w, outputs, 0, inputs, sum)
            return
        }
        val total = LongArray(outputs)
        for (from in 0 until inputs step EXACT) {
            sum.fill(0f)
            accumulate(centred, 0, w, outputs, from, min(from + EXACT, inputs), sum)
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
