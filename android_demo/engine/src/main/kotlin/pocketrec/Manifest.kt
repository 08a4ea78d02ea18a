package pocketrec

import java.security.MessageDigest

/** The shapes of the graph: `rows` float32 [1, length, dim] and `mask` float32 [1, length] to `query` float32 [1, dim]. */
public data class Graph(val length: Int, val dim: Int)

/** Hyper-parameters of the backbone (docs/bundle.md §5). */
public data class Backbone(
    val architecture: String,
    val layers: Int,
    val heads: Int,
    val kvHeads: Int,
    val headDim: Int,
    val intermediate: Int,
    val rmsEps: Double,
    val ropeTheta: Double,
)

/** The file that one engine runs, and the releases of that engine that may run it. */
public data class EngineFile(val file: String, val minVersion: String?, val maxVersion: String?, val madeWith: String?)

/** Shape and scheme ("fp32", "int8" or "int4") of one table. */
public data class TableSpec(val file: String, val rows: Int, val dim: Int, val scheme: String)

/** What the manifest says of one file. */
public data class FileEntry(val size: Long, val sha256: String)

/** The whole of `manifest.json` (docs/bundle.md §2); `figures` and `extra` hold what the builder liked to say. */
public data class Manifest(
    val bundleId: String,
    val name: String,
    val modelVersion: Int,
    val catalogueVersion: Int,
    val embeddingSpace: String,
    val created: String,
    val producer: String,
    val precision: String,
    val graph: Graph,
    val backbone: Backbone,
    val engines: Map<String, EngineFile>,
    val items: TableSpec,
    val words: TableSpec,
    val events: List<String>,
    val gapSeconds: List<Long>,
    val display: List<String>,
    val requires: List<String>,
    val licences: Map<String, String>,
    val figures: Map<String, Any?>,
    val extra: Map<String, Any?>,
    val files: Map<String, FileEntry>,
) {
    public companion object {
        public const val FORMAT: String = "pocketrec-bundle"
        public const val FORMAT_VERSION: Long = 1

        /** Names that `requires` may hold. */
        public val KNOWN_FEATURES: Set<String> = setOf("low-rank", "retired", "renamed")

        internal fun parse(data: ByteArray): Manifest {
            if (data.size > Limits.MANIFEST_BYTES) {
                throw BundleException("$MANIFEST_NAME has ${data.size} bytes.", "too-large")
            }
            val raw = Json.parse(data, MANIFEST_NAME)
            if (raw !is Map<*, *> || raw["format"] != FORMAT) {
                throw BundleException(
                    "$MANIFEST_NAME does not describe a $FORMAT.", "manifest-invalid",
                    "Point at a bundle that `pocketrec build` made.",
                )
            }
            val version = raw["format_version"]
            if (version is Long && version > FORMAT_VERSION) {
                throw BundleException(
                    "the bundle has format version $version; this runtime reads $FORMAT_VERSION.", "format-newer",
                    "Update pocketrec, or build the bundle with the release that this app has.",
                )
            }
            val requires = raw["requires"]
            val unknown = (requires as? List<*>)?.filter { it !in KNOWN_FEATURES }.orEmpty()
            if (unknown.isNotEmpty()) {
                throw BundleException(
                    "the bundle requires ${unknown.take(5)}, which this runtime does not know.", "feature-unknown",
                    "Update pocketrec.",
                )
            }
            return ManifestReader(Fields(raw, "manifest")).read()
        }

        /** The id of a bundle with these files: SHA-256 of the canonical listing, in hex. */
        internal fun bundleId(files: Map<String, FileEntry>): String {
            val listing = files.keys.sorted().joinToString("") { "$it ${files.getValue(it).sha256}\n" }
            return hex(MessageDigest.getInstance("SHA-256").digest(listing.toByteArray()))
        }
    }
}

internal fun hex(bytes: ByteArray): String = buildString(bytes.size * 2) {
    for (byte in bytes) {
        append("0123456789abcdef"[byte.toInt() shr 4 and 15])
        append("0123456789abcdef"[byte.toInt() and 15])
    }
}
