package pocketrec

import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.LinkOption
import java.nio.file.Path
import java.nio.file.StandardOpenOption
import java.nio.file.attribute.BasicFileAttributes

/**
 * Where the files of one bundle lie (docs/bundle.md §1). Names, kinds and limits are checked before a byte is used.
 *
 * Make one with [of], [directory] or [zip]; the maps stay valid after [close].
 */
public interface BundleSource : Closeable {
    /** What to call it in messages. */
    public val name: String

    /** Bytes of every file, by name; the manifest is among them. */
    public val sizes: Map<String, Long>

    /** A read-only, little-endian view of [size] bytes of a file from [offset] on, mapped rather than read. */
    public fun map(file: String, offset: Long = 0, size: Long = sizes.getValue(file) - offset): ByteBuffer

    public companion object {
        /** The bundle at [path]: a directory, or a ZIP of stored members. */
        @JvmStatic
        public fun of(path: File): BundleSource {
            val attributes = try {
                Files.readAttributes(path.toPath(), BasicFileAttributes::class.java)
            } catch (error: java.nio.file.NoSuchFileException) {
                throw BundleException(
                    "there is no bundle at $path.", "bundle-missing",
                    "Check the path, or make one with `pocketrec build`.",
                )
            } catch (error: IOException) {
                throw unreadable(path.path, error)
            }
            return when {
                attributes.isDirectory -> directory(path)
                attributes.isRegularFile -> zip(path)
                else -> throw BundleException("$path is neither a directory nor a file.", "bundle-missing")
            }
        }

        /** The bundle in the folder [path]. */
        @JvmStatic
        public fun directory(path: File): BundleSource = typed(path.path) { DirectorySource(path.toPath()) }

        /** The bundle in the archive [path]. */
        @JvmStatic
        public fun zip(path: File): BundleSource = typed(path.path) {
            val file = RandomAccessFile(path, "r")
            closingOnError(file) { zip(file.channel, 0, file.length(), path.path, file) }
        }

        /**
         * The bundle in an archive that is itself a region of a file, such as an uncompressed asset inside an APK:
         * [size] bytes of [channel] from [offset] on. [owner] is closed with the source.
         */
        @JvmStatic
        public fun zip(channel: FileChannel, offset: Long, size: Long, name: String, owner: Closeable): BundleSource =
            typed(name) { ZipSource(name, channel, offset, size, owner) }

        private inline fun <T> typed(name: String, make: () -> T): T = try {
            make()
        } catch (error: IOException) {
            throw unreadable(name, error)
        }

        private fun unreadable(name: String, error: IOException) = BundleException(
            "the bundle at $name cannot be read: ${error.message}.", "bundle-unreadable", "Check its permissions.", error,
        )
    }
}

private class DirectorySource(private val path: Path) : BundleSource {
    override val name: String = path.toString()
    private val channels = LinkedHashMap<String, FileChannel>()
    override val sizes = LinkedHashMap<String, Long>()

    init {
        closingOnError(this) {
            val names = ArrayList<String>()
            Files.newDirectoryStream(path).use { entries ->
                for (entry in entries) {
                    if (names.size > Limits.MEMBERS) throw tooManyFiles(name)
                    val file = entry.fileName.toString()
                    checkFileName(file)
                    names.add(file)
                }
            }
            checkFileNames(names, name)
            for (file in names.sorted()) {
                // Opened once: what was checked is what is mapped, also when the folder is swapped meanwhile.
                val entry = path.resolve(file)
                val kind = Files.readAttributes(entry, BasicFileAttributes::class.java, LinkOption.NOFOLLOW_LINKS)
                if (!kind.isRegularFile) throw specialFile(file)
                val channel = FileChannel.open(entry, StandardOpenOption.READ, LinkOption.NOFOLLOW_LINKS)
                channels[file] = channel
                sizes[file] = channel.size()
                checkFileSize(file, channel.size())
            }
        }
    }

    override fun map(file: String, offset: Long, size: Long): ByteBuffer =
        mapRegion(channels.getValue(file), offset, size, file)

    override fun close() = channels.values.forEach { it.close() }
}

internal object Limits {
    const val MANIFEST_BYTES = 1L shl 20
    const val FILES = 64
    const val MEMBERS = FILES + 2 // the manifest and its signature are not listed
    const val FILE_BYTES = 8L shl 30
    const val ITEMS = 1L shl 26
    const val HEADER_BYTES = 1L shl 20
    const val GOLDEN_BYTES = 16L shl 20
    const val GOLDEN_CASES = 1_000 // a stranger chooses how many there are
    const val GOLDEN_EVENTS = 16_384 // in the history of one
    const val ID_BYTES = 512
}

internal const val MANIFEST_NAME = "manifest.json"
internal const val SIGNATURE_NAME = "manifest.sig"
internal const val SIGNATURE_BYTES = 64
internal val FILE_NAME = Regex("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

internal fun mapRegion(channel: FileChannel, offset: Long, size: Long, file: String): ByteBuffer {
    if (size > Int.MAX_VALUE) {
        throw BundleException(
            "$file has a part of $size bytes; the JVM maps at most ${Int.MAX_VALUE} at once.", "too-large",
            "Use int8 or int4 tables, or fewer rows.",
        )
    }
    val buffer = if (size == 0L) ByteBuffer.allocate(0) else channel.map(FileChannel.MapMode.READ_ONLY, offset, size)
    return buffer.order(ByteOrder.LITTLE_ENDIAN)
}

internal fun checkFileNames(names: List<String>, where: String) {
    val seen = HashSet<String>()
    for (file in names) {
        checkFileName(file)
        if (!seen.add(file)) throw BundleException("$where holds $file twice.", "name-twice")
    }
    if (seen.size > Limits.MEMBERS) throw tooManyFiles(where)
    if (MANIFEST_NAME !in seen) {
        throw BundleException(
            "$where holds no $MANIFEST_NAME.", "manifest-missing", "Point at a bundle that `pocketrec build` made.",
        )
    }
}

internal fun checkFileName(file: String) {
    if (!FILE_NAME.matches(file)) {
        throw BundleException(
            "a bundle must not hold a file named ${Json.quoted(file.take(80))}.", "name-invalid",
            "Names are letters, digits, dot, dash and underscore; there are no folders.",
        )
    }
}

internal fun checkFileSize(file: String, size: Long) {
    val limit = when (file) {
        MANIFEST_NAME -> Limits.MANIFEST_BYTES
        SIGNATURE_NAME -> SIGNATURE_BYTES.toLong()
        else -> Limits.FILE_BYTES
    }
    if (size > limit) throw BundleException("$file has $size bytes; at most $limit are allowed.", "too-large")
}

internal fun specialFile(file: String) = BundleException(
    "$file is a link, a folder or another special file.", "file-special", "A bundle holds plain files only.",
)

internal fun tooManyFiles(where: String) = BundleException(
    "$where holds more than ${Limits.MEMBERS} files.", "too-many-files",
    "Point at the bundle itself, not at a folder around it.",
)

/** Runs [block]; closes [closeable] when it throws. */
internal inline fun <T> closingOnError(closeable: Closeable, block: () -> T): T = try {
    block()
} catch (error: Throwable) {
    try {
        closeable.close()
    } catch (second: IOException) {
        error.addSuppressed(second)
    }
    throw error
}
