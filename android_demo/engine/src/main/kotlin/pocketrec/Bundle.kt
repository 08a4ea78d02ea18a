package pocketrec

import java.io.Closeable
import java.io.File
import java.security.MessageDigest

/**
 * An open, verified bundle. Limits and names, the manifest, the signature when keys are given, the size and SHA-256 of every
 * file, then the tensors of every table were checked; everything in it is read-only and safe to use from many threads.
 */
public class Bundle private constructor(private val source: BundleSource, public val manifest: Manifest) : Closeable {
    internal val items = Table(manifest.items, tensors(manifest.items.file))
    public val catalogue: Catalogue =
        Catalogue(tensors("catalogue.safetensors"), manifest.items.rows, manifest.display, manifest.requires)
    internal val inputs = Inputs(manifest, items, tensors("inputs.safetensors"))

    init {
        Table(manifest.words, tensors(manifest.words.file)) // checked, and of no use here yet
    }

    /** Whether the bundle carries a signature (which was checked only if keys were given). */
    public val signed: Boolean get() = SIGNATURE_NAME in source.sizes

    /** Bytes of every file, the manifest and its signature included. */
    public val sizes: Map<String, Long> get() = source.sizes

    /** A copy of a file's bytes, as they were hashed. */
    public fun fileBytes(name: String): ByteArray {
        if (name !in source.sizes) {
            throw BundleException("the bundle holds no file $name.", "file-missing", "It was built without it.")
        }
        val view = source.map(name)
        return ByteArray(view.remaining()).also { view.get(it) }
    }

    internal fun tensors(file: String): Tensors = Tensors.map(source, file)

    override fun close(): Unit = source.close()

    public companion object {
        /** Opens and checks the bundle at [path], a directory or a stored ZIP. Takes a second for 100 MB: not on the main thread. */
        @JvmStatic
        public fun open(path: File, publicKeys: List<ByteArray> = emptyList()): Bundle =
            open(BundleSource.of(path), publicKeys)

        /**
         * Opens and checks a bundle; [source] is closed with it, or when it is refused.
         *
         * @param publicKeys keys (32 raw bytes), one of which must have signed the bundle; none: the signature is not checked.
         * @throws BundleException with a code of docs/bundle.md §10.
         */
        @JvmStatic
        public fun open(source: BundleSource, publicKeys: List<ByteArray> = emptyList()): Bundle =
            closingOnError(source) {
                val raw = bytes(source, MANIFEST_NAME)
                val manifest = Manifest.parse(raw)
                checkListing(source.sizes, manifest)
                checkSignature(source, raw, publicKeys)
                for ((name, entry) in manifest.files) checkHash(source, name, entry)
                Bundle(source, manifest)
            }

        private fun bytes(source: BundleSource, name: String): ByteArray {
            val view = source.map(name)
            return ByteArray(view.remaining()).also { view.get(it) }
        }

        private fun checkListing(sizes: Map<String, Long>, manifest: Manifest) {
            val present = sizes.keys - setOf(MANIFEST_NAME, SIGNATURE_NAME)
            val surplus = present - manifest.files.keys
            if (surplus.isNotEmpty()) {
                throw BundleException(
                    "the manifest does not list ${surplus.sorted().take(5)}.", "file-unlisted",
                    "Remove what does not belong to the bundle.",
                )
            }
            val missing = manifest.files.keys - present
            if (missing.isNotEmpty()) {
                throw BundleException(
                    "the bundle lacks ${missing.sorted().take(5)}.", "file-missing", "Get the bundle again.",
                )
            }
            for ((name, entry) in manifest.files) {
                if (sizes[name] != entry.size) {
                    throw BundleException(
                        "$name has ${sizes[name]} bytes, not the ${entry.size} that the manifest says.", "size-mismatch",
                        "Get the bundle again.",
                    )
                }
            }
        }

        private fun checkSignature(source: BundleSource, raw: ByteArray, publicKeys: List<ByteArray>) {
            val signature = if (SIGNATURE_NAME in source.sizes) bytes(source, SIGNATURE_NAME) else null
            if (signature != null && signature.size != SIGNATURE_BYTES) {
                throw BundleException("$SIGNATURE_NAME has ${signature.size} bytes.", "signature-invalid")
            }
            if (publicKeys.isEmpty()) return
            if (signature == null) {
                throw BundleException(
                    "the bundle is not signed, and a signature is asked for.", "signature-missing",
                    "Use a signed bundle, or open it without public keys.",
                )
            }
            Signing.verify(raw, signature, publicKeys)
        }

        private fun checkHash(source: BundleSource, name: String, entry: FileEntry) {
            val digest = MessageDigest.getInstance("SHA-256")
            var start = 0L
            while (start < entry.size) { // in parts: the JVM maps no file of over 2 GiB at once
                val size = minOf(entry.size - start, HASH_PART)
                digest.update(source.map(name, start, size))
                start += size
            }
            if (hex(digest.digest()) != entry.sha256) {
                throw BundleException(
                    "$name is not the file that the manifest describes (SHA-256 differs).", "hash-mismatch",
                    "Get the bundle again.",
                )
            }
        }

        private const val HASH_PART = 64L shl 20
    }
}
