package pocketrec

import kotlin.math.max
import kotlin.math.min

private typealias Shape = List<Long>

/**
 * What a bundle's `model.onnx` may compute: a list of operators, and the size of everything they make (docs/bundle.md §5).
 *
 * Every shape is known before the graph runs, from the shapes of the inputs and a few constants. A graph that asks for more
 * memory or work than the manifest's own figures explain is refused before ONNX Runtime sees it.
 */
internal object OnnxShapes {
    private const val MICROSOFT = "com.microsoft"
    private const val MOST_ELEMENTS = 1L shl 28
    private const val FLOOR = 1L shl 18
    private const val NODES_A_LAYER = 256
    private val OPSETS = mapOf("" to 18L..24L, MICROSOFT to 1L..1L)

    private val RULES: Map<Pair<String, String>, (Step) -> Shape> = buildMap {
        val same = "Abs Clip DequantizeLinear Erf Exp Identity Neg QuantizeLinear Reciprocal Relu Round Sigmoid Softmax Sqrt Tanh"
        for (op in same.split(" ")) put("" to op) { it[0] }
        for (op in "Add Div Max Min Mul Pow Sub Where".split(" ")) put("" to op) { broadcast(it.inputs) }
        for (op in "ReduceMax ReduceMean ReduceMin ReduceSum".split(" ")) put("" to op, ::reduce)
        put("" to "Cast", ::cast)
        put("" to "Concat", ::concat)
        put("" to "Gemm", ::gemm)
        put("" to "MatMul", ::matmul)
        put("" to "MatMulInteger", ::matmul)
        put("" to "Reshape", ::reshape)
        put("" to "Slice", ::slice)
        put("" to "Transpose", ::transpose)
        put(MICROSOFT to "MatMulNBits", ::matmulNBits)
    }
    private val PRODUCTS = setOf("Gemm", "MatMul", "MatMulInteger", "MatMulNBits")

    /** Returns when the format admits the graph in [model], the bytes of `model.onnx`; else `graph-invalid`. */
    fun check(model: ByteArray, manifest: Manifest) {
        val graph = OnnxReader.read(model)
        val length = manifest.graph.length.toLong()
        val dim = manifest.graph.dim.toLong()
        val query = listOf(1L, dim)
        if (graph.inputs != mapOf("rows" to listOf(1L, length, dim), "mask" to listOf(1L, length)) ||
            graph.outputs != mapOf("query" to query)
        ) {
            refuse("its inputs are ${graph.inputs} and its outputs ${graph.outputs}, not the manifest's")
        }
        for ((domain, version) in graph.opsets) {
            if (version !in (OPSETS[domain] ?: LongRange.EMPTY)) refuse("it imports version $version of the operators \"$domain\"")
        }
        if ("" !in graph.opsets) refuse("it imports no standard operators")
        val b = manifest.backbone
        val widest = maxOf(dim, b.intermediate.toLong(), b.heads.toLong() * b.headDim)
        val most = min(MOST_ELEMENTS, 4 * maxOf(length * widest, b.heads * length * length, FLOOR))
        val made = shapes(graph, most, most * NODES_A_LAYER * (b.layers + 1), widest)
        if (made["query"] != query) refuse("the query it computes has the shape ${made["query"]}")
    }

    /**
     * The shape of every value that the graph computes.
     *
     * @param most elements that one value may have.
     * @param total those of all; an element that sums over n products counts n div [widest] times, at least once.
     */
    private fun shapes(graph: OnnxGraph, most: Long, total: Long, widest: Long): Map<String, Shape> {
        val known = HashMap<String, Shape>(graph.constants.mapValues { it.value.shape })
        if (graph.inputs.keys.any { it in known }) refuse("an input is a constant, too")
        known.putAll(graph.inputs)
        val made = HashMap<String, Shape>()
        var left = total
        for (node in graph.nodes) {
            val rule = RULES[(if (node.domain == "ai.onnx") "" else node.domain) to node.op]
            if (rule == null || node.domain !in graph.opsets) {
                refuse("it uses the operator ${node.domain.ifEmpty { "ai.onnx" }}::${node.op}, which no bundle does")
            }
            val out = node.outputs.singleOrNull().orEmpty()
            if (out.isEmpty() || out in known) refuse("${node.op} makes ${node.outputs}: not one new value")
            if (node.inputs.isEmpty() || node.inputs.any { it.isNotEmpty() && it !in known }) {
                refuse("${node.op} reads ${node.inputs}, not all of which are there")
            }
            val step = Step(node, node.inputs.map { if (it.isEmpty()) emptyList() else known.getValue(it) }, graph.constants)
            val shape = try {
                rule(step)
            } catch (error: ArithmeticException) {
                step.misfit("a number is too large")
            }
            val size = product(shape)
            val terms = if (node.op in PRODUCTS) max(1L, step[0].maxOrNull()!! / widest) else 1L
            val work = product(listOf(size, terms))
            if (size > most || work > left || shape.size > OnnxReader.MAX_RANK) {
                refuse("${node.op} makes $shape: more than the manifest's figures explain")
            }
            left -= work
            known[out] = shape
            made[out] = shape
        }
        return made
    }

    /** One node and the shapes of its inputs; what is asked of it and is not there refuses the graph. */
    private class Step(val node: Node, val inputs: List<Shape>, private val constants: Map<String, Constant>) {
        operator fun get(index: Int): Shape = inputs.getOrNull(index) ?: misfit("it lacks an input")

        fun misfit(what: String): Nothing = refuse("the shapes or attributes of ${node.op} do not fit: $what (inputs $inputs)")

        fun fits(holds: Boolean, what: String) {
            if (!holds) misfit(what)
        }

        fun has(index: Int): Boolean = !node.inputs.getOrNull(index).isNullOrEmpty()

        /** Numbers of an input, which must be a constant. */
        fun ints(index: Int): List<Long> =
            constants[node.inputs.getOrNull(index)]?.ints ?: misfit("input $index is no short list of constant integers")

        fun number(name: String, default: Long? = null): Long {
            if (name !in node.attributes) return default ?: misfit("it lacks $name")
            return node.attributes[name] as? Long ?: misfit("$name is no number")
        }

        fun axis(axis: Long, rank: Int): Int {
            fits(axis >= -rank && axis < rank, "there is no axis $axis")
            return (if (axis < 0) axis + rank else axis).toInt()
        }
    }

    private fun cast(step: Step): Shape {
        step.fits(step.number("to") in OnnxReader.ITEM_BYTES, "a type that no bundle has")
        return step[0]
    }

    private fun broadcast(shapes: List<Shape>): Shape {
        val rank = shapes.maxOf { it.size }
        return List(rank) { place ->
            val sizes = shapes.mapNotNull { it.getOrNull(place - (rank - it.size)) }.filter { it != 1L }.distinct()
            if (sizes.size > 1) refuse("$shapes do not broadcast")
            sizes.firstOrNull() ?: 1L
        }
    }

    private fun reshape(step: Step): Shape {
        val from = step[0]
        val asked = step.ints(1).toMutableList()
        if (step.number("allowzero", 0) == 0L) {
            for (i in asked.indices) if (asked[i] == 0L) asked[i] = from.getOrNull(i) ?: step.misfit("there is no axis $i")
        }
        val open = asked.indexOf(-1L)
        val rest = asked.filterIndexed { i, _ -> i != open }
        step.fits(rest.none { it < 0 }, "it cannot become $asked")
        if (open >= 0) asked[open] = product(rest).let { if (it == 0L) 0 else product(from) / it }
        step.fits(product(asked) == product(from), "it cannot become $asked")
        return asked
    }

    private fun slice(step: Step): Shape {
        val shape = step[0].toMutableList()
        val starts = step.ints(1)
        val ends = step.ints(2)
        val axes = if (step.has(3)) step.ints(3) else starts.indices.map { it.toLong() }
        val steps = if (step.has(4)) step.ints(4) else starts.map { 1L }
        step.fits(listOf(ends, axes, steps).all { it.size == starts.size }, "starts, ends, axes and steps of unlike numbers")
        for (i in starts.indices) {
            val place = step.axis(axes[i], shape.size)
            step.fits(steps[i] != 0L, "a step of 0")
            shape[place] = sliced(shape[place], starts[i], ends[i], steps[i])
        }
        return shape
    }

    /** How many of [n] entries a slice takes, by the rules of ONNX, which are Python's. */
    private fun sliced(n: Long, start: Long, end: Long, step: Long): Long {
        val low = if (step > 0) 0L else -1L
        val high = if (step > 0) n else n - 1
        fun place(at: Long) = if (at < 0) max(at + n, low) else min(at, high)
        val span = if (step > 0) place(end) - place(start) else place(start) - place(end)
        // −step is negative for the least Long alone; the quotient is 0 all the same.
        return if (span <= 0) 0 else 1 + (span - 1) / (if (step > 0) step else -step)
    }

    private fun concat(step: Step): Shape {
        val axis = step.axis(step.number("axis"), step[0].size)
        fun rest(shape: Shape) = shape.filterIndexed { place, _ -> place != axis }
        step.fits(step.inputs.all { it.size == step[0].size && rest(it) == rest(step[0]) }, "they cannot be joined")
        val joined = step.inputs.fold(0L) { sum, shape -> Math.addExact(sum, shape[axis]) }
        return step[0].mapIndexed { place, n -> if (place == axis) joined else n }
    }

    private fun transpose(step: Step): Shape {
        val places = step[0].indices.map { it.toLong() }
        val order = if ("perm" in step.node.attributes) step.node.attributes["perm"] as? List<*> else places.reversed()
        step.fits(order != null && order.size == places.size && order.toSet() == places.toSet(), "$order is no order of its axes")
        return order!!.map { step[0][(it as Long).toInt()] }
    }

    private fun reduce(step: Step): Shape {
        val shape = step[0]
        val axes = if (step.has(1)) step.ints(1) else emptyList()
        if (axes.isEmpty() && step.number("noop_with_empty_axes", 0) != 0L) return shape
        val gone = if (axes.isEmpty()) shape.indices.toSet() else axes.map { step.axis(it, shape.size) }.toSet()
        if (step.number("keepdims", 1) != 0L) return shape.mapIndexed { place, n -> if (place in gone) 1L else n }
        return shape.filterIndexed { place, _ -> place !in gone }
    }

    private fun matmul(step: Step): Shape {
        val (a, b) = step[0] to step[1]
        step.fits(a.size >= 2 && b.size >= 2 && a[a.size - 1] == b[b.size - 2], "they cannot be multiplied")
        return broadcast(listOf(a.dropLast(2), b.dropLast(2))) + a[a.size - 2] + b[b.size - 1]
    }

    private fun gemm(step: Step): Shape {
        fun turned(index: Int, name: String): Shape {
            step.fits(step[index].size == 2, "it multiplies matrices")
            return if (step.number(name, 0) != 0L) step[index].reversed() else step[index]
        }
        val (rows, inner) = turned(0, "transA")
        val (innerOther, columns) = turned(1, "transB")
        step.fits(inner == innerOther, "they cannot be multiplied")
        return listOf(rows, columns)
    }

    private fun matmulNBits(step: Step): Shape {
        val (k, n) = step.number("K") to step.number("N")
        val block = step.number("block_size")
        step.fits(step.number("bits") == 4L && block == 32L && k >= 1 && n >= 1 && step[0].lastOrNull() == k, "K $k, N $n")
        // A kernel reads these by the attributes, not by the shapes.
        val blocks = (k - 1) / block + 1
        val weights = step[1] == listOf(n, blocks, block / 2) && product(step[2]) == Math.multiplyExact(n, blocks)
        step.fits(weights && step.inputs.size == 3, "weights for K $k and N $n")
        return step[0].dropLast(1) + n
    }
}
