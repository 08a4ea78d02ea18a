package pocketrec

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.CharacterCodingException

/** An initializer: its shape, and its numbers where it is a short list of int64. */
internal class Constant(val shape: List<Long>, val ints: List<Long>?)

/** One operator; an attribute is a Long, a list of Longs, or null for what shapes do not depend on. */
internal class Node(
    val op: String, val domain: String, val inputs: List<String>, val outputs: List<String>, val attributes: Map<String, Any?>,
)

/** `model.onnx`: nodes in the order of the file. */
internal class OnnxGraph(
    val nodes: List<Node>, val constants: Map<String, Constant>, val inputs: Map<String, List<Long>>,
    val outputs: Map<String, List<Long>>, val opsets: Map<String, Long>,
)

/** The error for a graph that the format does not admit. */
internal fun refuse(what: String): Nothing = throw BundleException("model.onnx: $what.", "graph-invalid", "Build the bundle again.")

/** The product, or Long.MAX_VALUE when it is beyond that; no factor is negative. */
internal fun product(factors: List<Long>): Long {
    if (0L in factors) return 0
    var size = 1L
    for (n in factors) size = if (n > Long.MAX_VALUE / size) return Long.MAX_VALUE else size * n
    return size
}

/**
 * Reads `model.onnx` as the format admits it (docs/bundle.md §5), without ONNX Runtime or protobuf.
 *
 * ONNX is a language: a file may name other files, hold functions and loops, or make a tensor of a terabyte out of two numbers.
 * A bundle's graph does none of this, so a field that is not known, a field twice, and a shape that its data does not fill are
 * refused, and a second parser has nothing left to understand in another way. Weights are not copied. What may be computed is
 * in [OnnxShapes].
 */
internal object OnnxReader {
    /** Bytes of an element by ONNX data type: float, uint8, int8, int32, int64, bool, float16. */
    val ITEM_BYTES = mapOf(1L to 4, 2L to 1, 3L to 1, 6L to 4, 7L to 8, 9L to 1, 10L to 2)
    const val MAX_RANK = 8
    private const val MAX_NODES = 1 shl 16
    private const val MAX_TENSORS = 1 shl 16
    private const val FEW = 64 // integers of a constant that shapes are made from: no graph of ours has more
    private const val FLOAT = 1L
    private const val INT64 = 7L
    private const val VARINT = 0
    private const val BYTES = 2
    private const val FIXED32 = 5
    private const val EITHER = -1 // numbers one by one, or packed

    /** The graph in the bytes of `model.onnx`; `graph-invalid`. */
    fun read(model: ByteArray): OnnxGraph {
        val known = mapOf(1 to VARINT, 5 to VARINT) + listOf(2, 3, 4, 6, 7, 8, 14).associateWith { BYTES }
        val parts = Message(ProtoPart(model, 0, model.size), "the model", known, setOf(8, 14))
        val opsets = HashMap<String, Long>()
        for (part in parts.many(8)) {
            val entry = Message(part, "an opset", mapOf(1 to BYTES, 2 to VARINT))
            if (opsets.put(entry.text(1), entry.number(2)) != null) refuse("it imports the operators of ${entry.text(1)} twice")
        }
        return graph(parts.part(7) ?: refuse("it holds no graph"), opsets)
    }

    private fun graph(part: ProtoPart, opsets: Map<String, Long>): OnnxGraph {
        val known = listOf(1, 2, 5, 10, 11, 12, 13, 16).associateWith { BYTES }
        val parts = Message(part, "the graph", known, setOf(1, 5, 11, 12, 13, 16))
        val nodes = parts.many(1)
        val tensors = parts.many(5)
        if (nodes.size > MAX_NODES || tensors.size > MAX_TENSORS) refuse("it has ${nodes.size} nodes and ${tensors.size} tensors")
        val constants = HashMap<String, Constant>()
        for (each in tensors) {
            val (name, constant) = tensor(each)
            if (name.isEmpty() || constants.put(name, constant) != null) refuse("a tensor has no name, or \"$name\" is there twice")
        }
        return OnnxGraph(
            nodes.map(::node), constants, values(parts.many(11), "input"), values(parts.many(12), "output"), opsets,
        )
    }

    private fun node(part: ProtoPart): Node {
        val parts = Message(part, "a node", listOf(1, 2, 3, 4, 5, 6, 7, 9).associateWith { BYTES }, setOf(1, 2, 5, 9))
        val attributes = HashMap<String, Any?>()
        for (each in parts.many(5)) {
            val (name, value) = attribute(each)
            if (name in attributes) refuse("a node has the attribute \"$name\" twice")
            attributes[name] = value
        }
        return Node(parts.text(4), parts.text(7), parts.many(1).map { it.text() }, parts.many(2).map { it.text() }, attributes)
    }

    private fun attribute(part: ProtoPart): Pair<String, Any?> {
        // Not among them: tensors, graphs (loops and branches) and references to a function's attributes.
        val known = mapOf(1 to BYTES, 2 to FIXED32, 3 to VARINT, 4 to BYTES, 7 to BYTES, 8 to EITHER, 13 to BYTES, 20 to VARINT)
        val parts = Message(part, "an attribute", known, setOf(8))
        if (listOf(2, 3, 4, 7, 8).count { it in parts } > 1) refuse("the attribute \"${parts.text(1)}\" has two values")
        val value: Any? = when {
            3 in parts -> parts.number(3)
            8 in parts -> parts.numbers(8, FEW)
            else -> null
        }
        return parts.text(1) to value
    }

    private fun tensor(part: ProtoPart): Pair<String, Constant> {
        // Not among them: external data (13), segments (3), strings, and kinds of numbers that no graph here has.
        val known = mapOf(1 to EITHER, 2 to VARINT, 14 to VARINT) + listOf(4, 5, 7, 8, 9, 12).associateWith { BYTES }
        val parts = Message(part, "a tensor", known, setOf(1))
        val name = parts.text(8)
        val shape = parts.numbers(1, MAX_RANK)
        val kind = parts.number(2)
        val width = ITEM_BYTES[kind]
        if (width == null || shape.any { it < 0 } || parts.number(14) != 0L) {
            refuse("the tensor \"$name\" has the type $kind, the shape $shape, or its data elsewhere")
        }
        val count = product(shape)
        val data = listOf(4, 5, 7, 9).filter { it in parts }
        if (data.size > 1 || (count > 0 && data.isEmpty())) refuse("the tensor \"$name\" has data of ${data.size} kinds")
        if (data.isEmpty()) return name to Constant(shape, if (kind == INT64) emptyList() else null)
        val short = kind == INT64 && count <= FEW
        val raw = parts.part(data[0])!!
        if (data[0] == 9) {
            if (raw.size % width != 0 || (raw.size / width).toLong() != count) {
                refuse("the tensor \"$name\" of shape $shape has ${raw.size} bytes")
            }
            return name to Constant(shape, if (short) raw.int64s() else null)
        }
        // In the field for its type rather than as raw bytes. Of numbers of any length, each ends with a byte below 128.
        val fits = data[0] == (if (kind == FLOAT) 4 else if (kind == INT64) 7 else 5) && (data[0] != 4 || raw.size % 4 == 0)
        val found = if (data[0] == 4) raw.size / 4 else raw.numberEnds()
        if (!fits || found.toLong() != count) refuse("the tensor \"$name\" should have $count numbers, and has $found")
        return name to Constant(shape, if (short) parts.numbers(data[0], FEW) else null)
    }

    /** Names and shapes of inputs or outputs: float32, every dimension a number. */
    private fun values(parts: List<ProtoPart>, what: String): Map<String, List<Long>> {
        val found = HashMap<String, List<Long>>()
        for (part in parts) {
            val value = Message(part, what, listOf(1, 2, 3, 4).associateWith { BYTES }, setOf(4))
            val kind = Message(value.only(2), what, mapOf(1 to BYTES, 6 to BYTES))
            val tensor = Message(kind.only(1), what, mapOf(1 to VARINT, 2 to BYTES))
            val name = value.text(1)
            if (name in found || tensor.number(1) != FLOAT) refuse("the $what \"$name\" is there twice, or is not float32")
            val dims = Message(tensor.only(2), what, mapOf(1 to BYTES), setOf(1)).many(1)
            if (dims.size > MAX_RANK) refuse("the $what \"$name\" has ${dims.size} dimensions")
            found[name] = dims.map {
                val size = Message(it, what, mapOf(1 to VARINT, 3 to BYTES))
                if (1 !in size) refuse("an $what has a dimension without a size")
                size.number(1)
            }
        }
        return found
    }

    /**
     * The fields of a message by number.
     *
     * @param known the numbers that may occur, and their wire type.
     * @param many those that may occur more than once.
     */
    private class Message(part: ProtoPart, private val what: String, known: Map<Int, Int>, many: Set<Int> = emptySet()) {
        private val found = HashMap<Int, ArrayList<Any>>() // Longs and ProtoParts

        init {
            var at = part.from
            while (at < part.to) {
                val (tag, next) = part.varint(at)
                at = next
                val number = (tag ushr 3).let { if (it > Int.MAX_VALUE) -1 else it.toInt() }
                val wire = (tag and 7).toInt()
                val wanted = known[number]
                if (wanted == null || !(wire == wanted || wanted == EITHER && (wire == VARINT || wire == BYTES))) {
                    refuse("$what has the field $number of the wire type $wire, which no bundle uses")
                }
                if (number in found && number !in many) refuse("$what has the field $number twice")
                val values = found.getOrPut(number) { ArrayList() }
                if (wire == VARINT) {
                    val (value, end) = part.varint(at)
                    values.add(value)
                    at = end
                    continue
                }
                val (size, start) = if (wire == BYTES) part.varint(at) else 4L to at
                if (size < 0 || size > part.to - start) refuse("$what ends in the middle of the field $number")
                at = start + size.toInt()
                values.add(ProtoPart(part.raw, start, at))
            }
        }

        operator fun contains(number: Int): Boolean = number in found

        /** The number in a field; 0, as protobuf has it, where the field is not. */
        fun number(number: Int): Long = found[number]?.get(0) as Long? ?: 0L

        fun part(number: Int): ProtoPart? = found[number]?.get(0) as ProtoPart?

        fun only(number: Int): ProtoPart = part(number) ?: refuse("an $what has no type or no shape")

        fun many(number: Int): List<ProtoPart> = found[number].orEmpty().map { it as ProtoPart }

        fun text(number: Int): String = part(number)?.text() ?: ""

        /** Numbers that stand one by one, packed, or both. */
        fun numbers(number: Int, most: Int): List<Long> {
            val out = ArrayList<Long>()
            for (value in found[number].orEmpty()) {
                if (value is Long) out.add(value) else (value as ProtoPart).varints(most + 1, out)
            }
            if (out.size > most) refuse("a list has more than $most numbers")
            return out
        }
    }
}

/** Bytes of a protobuf message: those of [raw] from [from] until [to]. */
internal class ProtoPart(val raw: ByteArray, val from: Int, val to: Int) {
    val size: Int get() = to - from

    /** The number at [start], and where it ends; of 64 bits, so that it may be negative. */
    fun varint(start: Int): Pair<Long, Int> {
        var value = 0L
        for (place in 0 until 10) {
            val at = start + place
            if (at >= to) break
            val byte = raw[at].toInt()
            value = value or (byte.toLong() and 0x7f shl 7 * place)
            if (byte < 0) continue
            if (place == 9 && byte > 1) break // beyond 64 bits
            return value to at + 1
        }
        refuse("a number does not end")
    }

    /** Adds the numbers to [out], until it holds [most]. */
    fun varints(most: Int, out: MutableList<Long>) {
        var at = from
        while (at < to && out.size < most) {
            val (value, next) = varint(at)
            out.add(value)
            at = next
        }
    }

    /** How many numbers of any length end here. */
    fun numberEnds(): Int = (from until to).count { raw[it] >= 0 }

    fun int64s(): List<Long> {
        val view = ByteBuffer.wrap(raw).order(ByteOrder.LITTLE_ENDIAN)
        return List(size / 8) { view.getLong(from + 8 * it) }
    }

    fun text(): String {
        if (size > MAX_NAME_BYTES) refuse("a name has $size bytes")
        return try {
            Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(raw, from, size)).toString() // reports what is malformed
        } catch (error: CharacterCodingException) {
            refuse("a name is not UTF-8")
        }
    }

    private companion object {
        const val MAX_NAME_BYTES = 1024
    }
}
