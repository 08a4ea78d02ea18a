package pocketrec

import java.io.Closeable
import java.io.EOFException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/**
 * The ZIP of docs/bundle.md §1, which is stricter than ZIP: members stored, one behind the other from byte 0, nothing between
 * them and no comment. `java.util.zip` cannot say where a member lies, and is laxer.
 */
internal class ZipSource(
    override val name: String,
    private val channel: FileChannel,
    private val base: Long,
    private val total: Long,
    private val owner: Closeable,
) : BundleSource {
    private val starts = HashMap<String, Long>()
    override val sizes = LinkedHashMap<String, Long>()

    private class Entry(val name: String, val header: Long, val size: Long)

    init {
        try {
            locate()
        } catch (error: EOFException) {
            throw bad("$name ends too early")
        }
    }

    override fun map(file: String, offset: Long, size: Long): ByteBuffer =
        mapRegion(channel, base + starts.getValue(file) + offset, size, file)

    override fun close() = owner.close()

    private fun locate() {
        if (total < END_SIZE) throw bad("$name is neither a bundle directory nor a ZIP archive")
        val end = read(total - END_SIZE, END_SIZE)
        if (end.getInt(0) != END_MAGIC || end.u16(20) != 0) {
            throw bad("$name is neither a bundle directory nor a plain ZIP archive")
        }
        if (end.u16(4) != 0 && end.u16(4) != MAX16 || end.u16(8) != end.u16(10)) throw bad("$name has several parts")
        var count = end.u16(10).toLong()
        var size = end.u32(12)
        var start = end.u32(16)
        var directoryEnd = total - END_SIZE
        if (count == MAX16.toLong() || size == MAX32 || start == MAX32 || hasLocator()) {
            directoryEnd = total - END_SIZE - LOCATOR_SIZE - END64_SIZE
            if (directoryEnd < 0) throw bad("$name ends too early")
            val end64 = read(directoryEnd, END64_SIZE + LOCATOR_SIZE)
            if (end64.getInt(0) != END64_MAGIC || end64.getInt(END64_SIZE) != LOCATOR_MAGIC ||
                end64.getLong(END64_SIZE + 8) != directoryEnd
            ) {
                throw bad("$name has a broken ZIP64 record")
            }
            count = end64.getLong(32)
            size = end64.getLong(40)
            start = end64.getLong(48)
        }
        if (count < 0 || count > Limits.MEMBERS) throw tooManyFiles(name)
        if (size < 0 || size > Limits.MANIFEST_BYTES) throw bad("$name has a central directory of $size bytes")
        if (start < 0 || start + size != directoryEnd) throw bad("the central directory of $name is not where it says")
        val entries = entries(read(start, size.toInt()), count.toInt())
        checkFileNames(entries.map { it.name }, name)
        var next = 0L
        for (entry in entries.sortedBy { it.header }) next = member(entry, next, start)
        if (next != start) throw bad("${start - next} bytes lie between the last member and the central directory")
    }

    private fun hasLocator(): Boolean =
        total >= END_SIZE + LOCATOR_SIZE && read(total - END_SIZE - LOCATOR_SIZE, 4).getInt(0) == LOCATOR_MAGIC

    private fun entries(directory: ByteBuffer, count: Int): List<Entry> = List(count) {
        if (directory.remaining() < CENTRAL_SIZE) throw bad("the central directory of $name is cut off")
        val at = directory.position()
        if (directory.getInt(at) != CENTRAL_MAGIC) throw bad("the central directory of $name is broken")
        val nameSize = directory.u16(at + 28)
        val extraSize = directory.u16(at + 30)
        val whole = CENTRAL_SIZE + nameSize + extraSize + directory.u16(at + 32)
        if (directory.remaining() < whole) throw bad("the central directory of $name is cut off")
        val file = directory.text(at + CENTRAL_SIZE, nameSize)
        checkFileName(file)
        if (directory.u16(at + 8) and UTF8_NAME.inv() != 0) throw bad("$file has the flags ${directory.u16(at + 8)}")
        val mode = directory.u16(at + 40) shr 12
        if (mode != 0 && mode != REGULAR_FILE) throw specialFile(file)
        val extra = directory.extra64(at + CENTRAL_SIZE + nameSize, extraSize)
        fun wide(offset: Int): Long {
            val value = directory.u32(offset)
            if (value != MAX32) return value
            if (extra == null || extra.remaining() < 8) throw bad("$file lacks its ZIP64 size")
            return extra.getLong()
        }
        val size = wide(at + 24)
        val stored = wide(at + 20)
        val header = wide(at + 42)
        if (directory.u16(at + 10) != 0 || stored != size) {
            throw bad("$file is compressed", "Store the members: tables are mapped where they lie.")
        }
        if (size < 0 || header < 0) throw bad("$file has a negative size")
        checkFileSize(file, size)
        (directory as java.nio.Buffer).position(at + whole)
        Entry(file, header, size)
    }.also { if (directory.hasRemaining()) throw bad("the central directory of $name holds more than it says") }

    /** Checks the local header of [entry], which must begin at [expected]; gives where the member ends. */
    private fun member(entry: Entry, expected: Long, limit: Long): Long {
        if (entry.header != expected) {
            throw bad("${entry.name} starts at byte ${entry.header}, the member before ends at $expected")
        }
        if (entry.header + LOCAL_SIZE > limit) throw bad("${entry.name} runs past the end of the members")
        val local = read(entry.header, LOCAL_SIZE)
        val nameSize = local.u16(26)
        val data = entry.header + LOCAL_SIZE + nameSize + local.u16(28)
        if (data + entry.size > limit) throw bad("${entry.name} runs past the end of the members")
        val sameName = read(entry.header + LOCAL_SIZE, nameSize).text(0, nameSize) == entry.name
        val size = local.u32(22)
        val agrees = local.getInt(0) == LOCAL_MAGIC && sameName && local.u16(6) and UTF8_NAME.inv() == 0 &&
            local.u16(8) == 0 && (size == entry.size || size == MAX32)
        if (!agrees) throw bad("the local header of ${entry.name} contradicts the central directory")
        starts[entry.name] = data
        sizes[entry.name] = entry.size
        return data + entry.size
    }

    private fun read(offset: Long, size: Int): ByteBuffer {
        if (offset < 0 || offset + size > total) throw EOFException()
        val out = ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN)
        while (out.hasRemaining()) {
            if (channel.read(out, base + offset + out.position()) < 0) throw EOFException()
        }
        (out as java.nio.Buffer).flip() // Java 9 overrides it in ByteBuffer, which Android 8 lacks
        return out
    }

    private fun bad(what: String, remedy: String = "Get the archive again.") =
        BundleException("$what.", "zip-invalid", remedy)

    private companion object {
        const val END_MAGIC = 0x06054b50
        const val END64_MAGIC = 0x06064b50
        const val LOCATOR_MAGIC = 0x07064b50
        const val CENTRAL_MAGIC = 0x02014b50
        const val LOCAL_MAGIC = 0x04034b50
        const val END_SIZE = 22
        const val END64_SIZE = 56
        const val LOCATOR_SIZE = 20
        const val CENTRAL_SIZE = 46
        const val LOCAL_SIZE = 30
        const val MAX16 = 0xffff
        const val MAX32 = 0xffffffffL
        const val UTF8_NAME = 0x800
        const val REGULAR_FILE = 8

        fun ByteBuffer.u16(at: Int): Int = getShort(at).toInt() and 0xffff

        fun ByteBuffer.u32(at: Int): Long = getInt(at).toLong() and 0xffffffffL

        fun ByteBuffer.text(at: Int, size: Int): String = String(array(), arrayOffset() + at, size, Charsets.UTF_8)

        /** The ZIP64 field among the extra fields, or null. */
        fun ByteBuffer.extra64(from: Int, size: Int): ByteBuffer? {
            var at = from
            while (at + 4 <= from + size) {
                val length = u16(at + 2)
                if (at + 4 + length > from + size) return null
                if (u16(at) == 1) {
                    val field = duplicate().order(ByteOrder.LITTLE_ENDIAN)
                    (field as java.nio.Buffer).position(at + 4).limit(at + 4 + length)
                    return field
                }
                at += 4 + length
            }
            return null
        }
    }
}
