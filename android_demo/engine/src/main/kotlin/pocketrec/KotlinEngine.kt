package pocketrec

import kotlin.math.cos
import kotlin.math.exp
import kotlin.math.pow
import kotlin.math.sin
import kotlin.math.sqrt

/**
 * The backbone in Kotlin (docs/bundle.md §5), from `backbone.safetensors` alone.
 *
 * Only the last row is asked for, so padding (which no row attends to) is left out, and so is what the last layer would
 * compute for the other rows: the same numbers for less work, the less the shorter the history.
 */
internal class KotlinEngine(bundle: Bundle) : Engine {
    override val name: String get() = "kotlin"
    private val shape = bundle.manifest.backbone
    private val length = bundle.manifest.graph.length
    private val d = bundle.manifest.graph.dim
    private val half = shape.headDim / 2
    private val cosines = FloatArray(length * half)
    private val sines = FloatArray(length * half)
    private val norm: FloatArray
    private val recency: FloatArray
    private val layers: List<Layer>

    private class Layer(
        val inputNorm: FloatArray, val postNorm: FloatArray, val qNorm: FloatArray?, val kNorm: FloatArray?,
        val q: Linear, val k: Linear, val v: Linear, val o: Linear, val gate: Linear, val up: Linear, val down: Linear,
    )

    init {
        val tensors = bundle.tensors("backbone.safetensors")
        norm = tensors.take("norm", "F32", d.toLong()).floats()
        recency = tensors.take("recency", "F32", length.toLong(), d.toLong()).floats()
        layers = List(shape.layers) { layer(tensors, "layers.$it.") }
        for (p in 0 until length) {
            for (i in 0 until half) {
                val frequency = (1.0 / shape.ropeTheta.pow(2.0 * i / shape.headDim)).toFloat()
                val angle = (p * frequency).toDouble()
                cosines[p * half + i] = cos(angle).toFloat()
                sines[p * half + i] = sin(angle).toFloat()
            }
        }
    }

    private fun layer(tensors: Tensors, at: String): Layer {
        val queries = shape.heads * shape.headDim
        val keys = shape.kvHeads * shape.headDim
        fun vector(name: String, size: Int) = tensors.take(at + name, "F32", size.toLong()).floats()
        fun linear(name: String, outputs: Int, inputs: Int) = Linear.read(tensors, "$at${name}_proj", outputs, inputs)
        val normed = shape.architecture == "qwen3"
        return Layer(
            vector("input_norm", d), vector("post_norm", d),
            if (normed) vector("q_norm", shape.headDim) else null, if (normed) vector("k_norm", shape.headDim) else null,
            linear("q", queries, d), linear("k", keys, d), linear("v", keys, d), linear("o", d, queries),
            linear("gate", shape.intermediate, d), linear("up", shape.intermediate, d), linear("down", d, shape.intermediate),
        )
    }

    override fun run(rows: FloatArray, mask: FloatArray, checkpoint: () -> Unit): FloatArray {
        val first = mask.indexOfFirst { it == 1f }.let { if (it < 0) length - 1 else it }
        val used = length - first
        var h = rows.copyOfRange(first * d, length * d)
        for ((index, layer) in layers.withIndex()) {
            checkpoint()
            h = run(layer, h, used, first, mask, if (index == layers.size - 1) 1 else used, checkpoint)
        }
        val query = FloatArray(d)
        rms(h, h.size - d, d, norm, query, 0)
        for (p in 0 until length) for (j in 0 until d) query[j] += recency[p * d + j] * rows[p * d + j]
        return query
    }

    override fun close() = Unit

    /** One layer over [used] rows; gives the last [wanted] of them. */
    private fun run(
        layer: Layer, h: FloatArray, used: Int, first: Int, mask: FloatArray, wanted: Int, checkpoint: () -> Unit,
    ): FloatArray {
        val n = FloatArray(used * d)
        for (r in 0 until used) rms(h, r * d, d, layer.inputNorm, n, r * d)
        val k = project(layer.k, n, used, layer.kNorm, first)
        val v = FloatArray(used * layer.v.outputs).also { layer.v.apply(n, used, it) }
        val skipped = used - wanted
        val q = project(layer.q, n.copyOfRange(skipped * d, used * d), wanted, layer.qNorm, first + skipped)
        checkpoint()
        val attended = attention(q, k, v, used, wanted, first, mask)
        val out = h.copyOfRange(skipped * d, used * d)
        val y = FloatArray(wanted * d)
        layer.o.apply(attended, wanted, y)
        for (i in y.indices) out[i] += y[i]
        checkpoint()
        val m = FloatArray(wanted * d)
        for (r in 0 until wanted) rms(out, r * d, d, layer.postNorm, m, r * d)
        val gate = FloatArray(wanted * shape.intermediate).also { layer.gate.apply(m, wanted, it) }
        val up = FloatArray(gate.size).also { layer.up.apply(m, wanted, it) }
        for (i in gate.indices) gate[i] = gate[i] / (1f + exp(-gate[i].toDouble()).toFloat()) * up[i]
        checkpoint()
        layer.down.apply(gate, wanted, y)
        for (i in y.indices) out[i] += y[i]
        return out
    }

    /** Queries or keys: linear, norm of each head, rotation by the row's position. */
    private fun project(linear: Linear, n: FloatArray, rows: Int, headNorm: FloatArray?, first: Int): FloatArray {
        val size = shape.headDim
        val y = FloatArray(rows * linear.outputs).also { linear.apply(n, rows, it) }
        for (r in 0 until rows) {
            for (at in r * linear.outputs until (r + 1) * linear.outputs step size) {
                if (headNorm != null) rms(y, at, size, headNorm, y, at)
                val turn = (first + r) * half
                for (i in 0 until half) {
                    val a = y[at + i]
                    val b = y[at + half + i]
                    y[at + i] = a * cosines[turn + i] - b * sines[turn + i]
                    y[at + half + i] = b * cosines[turn + i] + a * sines[turn + i]
                }
            }
        }
        return y
    }

    private fun attention(
        q: FloatArray, k: FloatArray, v: FloatArray, used: Int, wanted: Int, first: Int, mask: FloatArray,
    ): FloatArray {
        val size = shape.headDim
        val keys = shape.kvHeads * size
        val queries = shape.heads * size
        val out = FloatArray(wanted * queries)
        val scale = 1f / sqrt(size.toFloat())
        val keysOf = Array(size) { FloatArray(used) }
        val values = Array(used) { FloatArray(size) }
        val scores = FloatArray(used)
        val sum = FloatArray(size)
        val group = shape.heads / shape.kvHeads
        for (head in 0 until shape.heads) {
            val kv = head / group * size
            if (head % group == 0) {
                for (p in 0 until used) {
                    for (i in 0 until size) {
                        keysOf[i][p] = k[p * keys + kv + i]
                        values[p][i] = v[p * keys + kv + i]
                    }
                }
            }
            for (r in 0 until wanted) {
                val seen = used - wanted + r + 1
                scores.fill(0f)
                accumulate(q, r * queries + head * size, keysOf, 0, size, scores)
                softmax(scores, seen, scale, first, mask)
                sum.fill(0f)
                accumulate(scores, 0, values, 0, seen, sum)
                System.arraycopy(sum, 0, out, r * queries + head * size, size)
            }
        }
        return out
    }

    private fun softmax(scores: FloatArray, seen: Int, scale: Float, first: Int, mask: FloatArray) {
        var most = Float.NEGATIVE_INFINITY
        for (p in 0 until seen) {
            scores[p] = scores[p] * scale + if (mask[first + p] == 1f) 0f else MASKED
            if (scores[p] > most) most = scores[p]
        }
        var total = 0f
        for (p in 0 until seen) {
            scores[p] = exp((scores[p] - most).toDouble()).toFloat()
            total += scores[p]
        }
        for (p in 0 until seen) scores[p] /= total
    }

    private fun rms(x: FloatArray, from: Int, size: Int, weight: FloatArray, out: FloatArray, to: Int) {
        var sum = 0.0
        for (i in 0 until size) sum += x[from + i].toDouble() * x[from + i]
        val root = sqrt((sum / size).toFloat() + shape.rmsEps.toFloat())
        for (i in 0 until size) out[to + i] = weight[i] * (x[from + i] / root)
    }

    private companion object {
        const val MASKED = -1e9f
    }
}
