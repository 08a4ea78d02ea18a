package pocketrec

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** One tensor of a safetensors file: a read-only, little-endian map of its bytes. */
internal class Tensor(val dtype: String, val shape: List<Long>, val bytes: ByteBuffer) {
    fun floats(): FloatArray = FloatArray(bytes.remaining() / 4).also { view().asFloatBuffer().get(it) }

    fun ints(): IntArray = IntArray(bytes.remaining() / 4).also { view().asIntBuffer().get(it) }

    fun byteArray(): ByteArray = ByteArray(bytes.remaining()).also { view().get(it) }

    /** A view with a position of its own: absolute reads of [bytes] are safe from any thread, relative ones are not. */
    fun view(): ByteBuffer = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN)
}

/**
 * The tensors of a safetensors file, stricter than the format asks (docs/bundle.md §3): only the types that a bundle uses, no
 * gaps, no overlaps, nothing after the last tensor.
 */
internal class Tensors private constructor(private val file: String, private val found: Map<String, Tensor>) {
    val names: Set<String> get() = found.keys

    operator fun contains(name: String): Boolean = name in found

    operator fun get(name: String): Tensor = found[name] ?: throw fault(file, "the tensor \"$name\" is missing")

    fun fault(what: String): BundleException = fault(file, what)

    /** The tensor when it has this type and shape (−1 is any length). */
    fun take(name: String, dtype: String, vararg shape: Long): Tensor {
        val tensor = get(name)
        val fits = tensor.dtype == dtype && tensor.shape.size == shape.size &&
            shape.indices.all { shape[it] == -1L || shape[it] == tensor.shape[it] }
        if (!fits) {
            throw fault(file, "the tensor \"$name\" is ${tensor.dtype} ${tensor.shape}, not $dtype ${shape.toList()}")
        }
        return tensor
    }

    /** Refuses a file with tensors other than [allowed]. */
    fun only(allowed: Set<String>) {
        val surplus = found.keys - allowed
        if (surplus.isNotEmpty()) throw fault(file, "the tensors ${surplus.sorted().take(5)} do not belong there")
    }

    companion object {
        private const val MAX_TENSORS = 4096
        private const val MAX_RANK = 4
        private const val MAX_NATURAL = (1L shl 53) - 1
        private val BYTES = mapOf("F32" to 4, "F16" to 2, "I8" to 1, "U8" to 1, "I32" to 4, "U32" to 4, "I64" to 8)

        private class Entry(val name: String, val dtype: String, val shape: List<Long>, val start: Long, val stop: Long)

        /** Reads and checks the header of [file]; maps every tensor, copies none. */
        fun map(source: BundleSource, file: String): Tensors {
            val total = source.sizes.getValue(file)
            if (total < 8) throw fault(file, "it has $total bytes, too few for a header")
            val headerBytes = source.map(file, 0, 8).getLong(0)
            if (headerBytes < 0 || headerBytes > Limits.HEADER_BYTES) {
                throw fault(file, "its header claims $headerBytes bytes; at most ${Limits.HEADER_BYTES} are allowed")
            }
            if (headerBytes > total - 8) throw fault(file, "its header claims $headerBytes bytes, the file has $total")
            val raw = ByteArray(headerBytes.toInt()).also { source.map(file, 8, headerBytes).get(it) }
            val header = Json.parse(raw, "the header of $file") as? Map<*, *>
                ?: throw fault(file, "its header is not an object")
            val metadata = header["__metadata__"] ?: emptyMap<String, String>()
            val plain = metadata is Map<*, *> && metadata.values.all { it is String }
            if (!plain || "__metadata__" in header && header["__metadata__"] == null) {
                throw fault(file, "__metadata__ must map text to text")
            }
            val names = header.keys.map { it as String }.filter { it != "__metadata__" }
            if (names.size > MAX_TENSORS) throw fault(file, "it holds ${names.size} tensors")
            val entries = names.map { entry(file, it, header[it]) }
            cover(file, entries, total - 8 - headerBytes)
            return Tensors(
                file,
                entries.associate {
                    it.name to Tensor(it.dtype, it.shape, source.map(file, 8 + headerBytes + it.start, it.stop - it.start))
                },
            )
        }

        private fun entry(file: String, name: String, raw: Any?): Entry {
            if (raw !is Map<*, *> || raw.keys != setOf("dtype", "shape", "data_offsets")) {
                throw fault(file, "tensor \"$name\" must have exactly dtype, shape and data_offsets")
            }
            val dtype = raw["dtype"] as? String
            val width = BYTES[dtype] ?: throw fault(file, "tensor \"$name\" has the dtype ${raw["dtype"]}")
            val shape = naturals(raw["shape"])?.takeIf { it.size <= MAX_RANK }
                ?: throw fault(file, "tensor \"$name\" has the shape ${raw["shape"].toString().take(60)}")
            val offsets = naturals(raw["data_offsets"])?.takeIf { it.size == 2 }
                ?: throw fault(file, "tensor \"$name\" has the offsets ${raw["data_offsets"].toString().take(60)}")
            val (start, stop) = offsets
            if (stop - start != product(shape, width.toLong())) {
                throw fault(file, "tensor \"$name\" of shape $shape has ${stop - start} bytes")
            }
            return Entry(name, dtype!!, shape, start, stop)
        }

        private fun naturals(raw: Any?): List<Long>? = (raw as? List<*>)?.map {
            (it as? Long)?.takeIf { n -> n in 0..MAX_NATURAL } ?: return null
        }

        /** The product, or −1 when it is beyond what any file holds. */
        private fun product(shape: List<Long>, width: Long): Long {
            if (0L in shape) return 0
            var size = width
            for (n in shape) {
                if (n > MAX_NATURAL / size) return -1
                size *= n
            }
            return size
        }

        private fun cover(file: String, entries: List<Entry>, size: Long) {
            var end = 0L
            for (entry in entries.sortedWith(compareBy({ it.start }, { it.stop }))) {
                if (entry.start != end) {
                    val kind = if (entry.start < end) "overlaps the one before" else "leaves a gap before it"
                    throw fault(file, "tensor \"${entry.name}\" $kind")
                }
                end = entry.stop
            }
            if (end != size) throw fault(file, "its tensors end at byte $end of $size")
        }

        fun fault(file: String, what: String) =
            BundleException("$file: $what.", "tensors-invalid", "Get the bundle again, or build it again.")
    }
}

/** `values-invalid` when a value is not finite or, unless [negative], below zero. */
internal fun checkFinite(values: FloatArray, what: String, negative: Boolean = true) {
    for (value in values) {
        if (value.isNaN() || value.isInfinite() || (!negative && value < 0f)) {
            throw BundleException("$what holds $value.", "values-invalid", "Build the bundle again.")
        }
    }
}

/** float16 (IEEE 754 binary16) to float32; exact. */
internal fun halfToFloat(half: Short): Float {
    val bits = half.toInt() and 0xffff
    val sign = bits and 0x8000 shl 16
    val exponent = bits shr 10 and 0x1f
    val fraction = bits and 0x3ff
    return when (exponent) {
        0 -> (if (sign == 0) 1f else -1f) * fraction * (1f / (1 shl 24))
        31 -> Float.fromBits(sign or 0x7f800000 or (fraction shl 13))
        else -> Float.fromBits(sign or (exponent + 112 shl 23) or (fraction shl 13))
    }
}

/** [halfToFloat] of a scale, which is finite and not below zero, without a branch. */
internal fun scaleOfHalf(half: Short): Float = Float.fromBits(half.toInt() and 0x7fff shl 13) * TWO_TO_112

private val TWO_TO_112 = Float.fromBits(112 + 127 shl 23)
