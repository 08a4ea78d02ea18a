package pocketrec

/** Reads the fields of one JSON object; a key that is missing, unknown or of another type is a `manifest-invalid`. */
internal class Fields(raw: Any?, private val where: String, private val code: String = "manifest-invalid") {
    private val map: Map<*, *> = raw as? Map<*, *> ?: throw fault(where, "is not an object", raw)
    private val read = HashSet<String>()

    val keys: Set<String> get() = map.keys.map { it as String }.toSet()

    fun has(key: String): Boolean = key in map

    fun any(key: String): Any? {
        read.add(key)
        if (key !in map) throw fault("$where.$key", "is missing", null)
        return map[key]
    }

    fun text(key: String, pattern: Regex? = null, max: Int = 128): String {
        val value = any(key)
        val fits = value is String && value.codePointCount(0, value.length) <= max && (pattern ?: ANY).matches(value)
        return if (fits) value else throw fault("$where.$key", "is not the text it should be", value)
    }

    fun optionalText(key: String, pattern: Regex? = null): String? =
        if (!has(key) || map[key] == null) null.also { read.add(key) } else text(key, pattern)

    fun whole(key: String, range: LongRange): Long = whole(any(key), range, "$where.$key")

    fun whole(value: Any?, range: LongRange, at: String): Long =
        if (value is Long && value in range) value else throw fault(at, "is not a whole number in $range", value)

    fun int(key: String, range: IntRange): Int = whole(key, range.first.toLong()..range.last.toLong()).toInt()

    fun number(key: String): Double = when (val value = any(key)) {
        is Long -> value.toDouble()
        is Double -> value
        else -> throw fault("$where.$key", "is not a number", value)
    }

    fun flag(key: String): Boolean = any(key) as? Boolean ?: throw fault("$where.$key", "is not true or false", map[key])

    fun list(key: String, max: Int = Int.MAX_VALUE): List<Any?> {
        val value = any(key) as? List<*> ?: throw fault("$where.$key", "is not a list", map[key])
        if (value.size > max) throw fault("$where.$key", "holds ${value.size} entries, at most $max are allowed", null)
        return value
    }

    fun texts(key: String, max: Int = Int.MAX_VALUE): List<String> = list(key, max).map {
        it as? String ?: throw fault("$where.$key", "holds something else than text", it)
    }

    fun fields(key: String): Fields = Fields(any(key), "$where.$key", code)

    /** Refuses keys that were not asked for. */
    fun done() {
        val unknown = map.keys - read
        if (unknown.isNotEmpty()) throw fault("$where.${unknown.first()}", "is not known", null)
    }

    fun check(holds: Boolean, what: String) {
        if (!holds) throw fault(where, what, null)
    }

    private fun fault(at: String, what: String, value: Any?) = BundleException(
        "$at $what" + (if (value == null) "." else " (got ${value.toString().take(60)})."), code, "Build the bundle again.",
    )

    private companion object {
        val ANY = Regex("[\\s\\S]*")
    }
}

/** The rules of docs/bundle.md §2. */
internal class ManifestReader(private val top: Fields) {
    fun read(): Manifest {
        top.text("format")
        top.whole("format_version", 1L..Manifest.FORMAT_VERSION)
        val requires = top.texts("requires")
        val graph = graph(top.fields("graph"))
        val files = files(top.fields("files"))
        val tables = top.fields("tables")
        val made = Manifest(
            bundleId = top.text("bundle_id", DIGEST),
            name = top.text("name", LABEL),
            modelVersion = top.int("model_version", 1..Int.MAX_VALUE),
            catalogueVersion = top.int("catalogue_version", 1..Int.MAX_VALUE),
            embeddingSpace = top.text("embedding_space", LABEL),
            created = top.text("created", CREATED),
            producer = top.text("producer", LABEL),
            precision = top.text("precision", LABEL),
            graph = graph,
            backbone = backbone(top.fields("backbone")),
            engines = engines(top.fields("engines"), files.keys),
            items = table(tables, "items", graph.dim),
            words = table(tables, "words", graph.dim),
            events = top.texts("events", 1024),
            gapSeconds = top.list("gap_seconds", 1024).map { top.whole(it, 0L..MAX_SECONDS, "gap_seconds") },
            display = top.texts("display", 32),
            requires = requires,
            licences = top.fields("licences").let { all -> all.keys.associateWith { all.text(it, max = 1 shl 20) } },
            figures = free("figures"),
            extra = free("extra"),
            files = files,
        )
        tables.done()
        top.done()
        rules(made)
        return made
    }

    private fun rules(made: Manifest) = with(made) {
        top.check(bundleId == Manifest.bundleId(files), "has a bundle_id that is not the hash of the listing in files")
        top.check(events.firstOrNull() == "", "has events that do not begin with \"\"")
        top.check(events.toSet().size == events.size, "has an event type twice")
        top.check(events.all { it.codePointCount(0, it.length) <= 128 }, "has an event type of over 128 characters")
        top.check(gapSeconds.zipWithNext().all { (a, b) -> a < b }, "has gap_seconds that do not rise")
        top.check(display.all(COLUMN::matches), "has a display column with a name that is not allowed")
        top.check(display.toSet().size == display.size && "item_id" !in display, "has display columns twice, or item_id")
    }

    private fun graph(fields: Fields): Graph {
        val length = fields.int("length", 1..4096)
        val dim = fields.int("dim", 32..4096)
        fields.check(dim % 32 == 0, "has a dim that is not a multiple of 32")
        val inputs = listOf(tensor("rows", 1, length, dim), tensor("mask", 1, length))
        fields.check(fields.list("inputs") == inputs, "has inputs other than $inputs")
        val outputs = listOf(tensor("query", 1, dim))
        fields.check(fields.list("outputs") == outputs, "has outputs other than $outputs")
        fields.done()
        return Graph(length, dim)
    }

    private fun tensor(name: String, vararg shape: Int): Map<String, Any?> =
        mapOf("name" to name, "dtype" to "float32", "shape" to shape.map { it.toLong() })

    private fun backbone(fields: Fields): Backbone {
        val made = Backbone(
            architecture = fields.text("architecture", ARCHITECTURE),
            layers = fields.int("layers", 1..128),
            heads = fields.int("heads", 1..1024),
            kvHeads = fields.int("kv_heads", 1..1024),
            headDim = fields.int("head_dim", 2..1024),
            intermediate = fields.int("intermediate", 1..65536),
            rmsEps = fields.number("rms_eps"),
            ropeTheta = fields.number("rope_theta"),
        )
        fields.done()
        fields.check(made.headDim % 2 == 0, "has an odd head_dim")
        fields.check(made.heads % made.kvHeads == 0, "has heads that are not a multiple of kv_heads")
        fields.check(made.rmsEps > 0 && made.rmsEps < 1, "has an rms_eps outside 0 … 1")
        fields.check(made.ropeTheta > 1 && made.ropeTheta < 1e12, "has a rope_theta outside 1 … 1e12")
        return made
    }

    private fun engines(fields: Fields, files: Set<String>): Map<String, EngineFile> {
        val made = fields.keys.associateWith { name ->
            fields.check(name in setOf("numpy", "onnxruntime", "executorch"), "names an engine $name that is not known")
            val entry = fields.fields(name)
            val file = EngineFile(
                entry.text("file", FILE_NAME),
                entry.optionalText("min_version", VERSION),
                entry.optionalText("max_version", VERSION),
                entry.optionalText("made_with", LABEL),
            )
            entry.done()
            entry.check(file.file in files, "names a file that files does not list")
            file
        }
        fields.check(made["numpy"]?.file == "backbone.safetensors", "must hold numpy with backbone.safetensors")
        return made
    }

    private fun table(tables: Fields, name: String, dim: Int): TableSpec {
        val fields = tables.fields(name)
        val made = TableSpec(
            fields.text("file"), fields.int("rows", 1..Limits.ITEMS.toInt()), fields.int("dim", 32..4096),
            fields.text("scheme", SCHEME),
        )
        fields.done()
        fields.check(made.file == "$name.safetensors", "has another file than $name.safetensors")
        fields.check(made.dim == dim, "has another dim than the graph")
        return made
    }

    private fun files(fields: Fields): Map<String, FileEntry> {
        fields.check(fields.keys.size <= Limits.FILES, "lists more than ${Limits.FILES} files")
        val made = fields.keys.associateWith { name ->
            fields.check(FILE_NAME.matches(name), "lists a file whose name is not allowed")
            val entry = fields.fields(name)
            FileEntry(entry.whole("size", 0L..Limits.FILE_BYTES), entry.text("sha256", DIGEST)).also { entry.done() }
        }
        fields.check(MANIFEST_NAME !in made && SIGNATURE_NAME !in made, "lists the manifest or its signature")
        val missing = REQUIRED_FILES - made.keys
        fields.check(missing.isEmpty(), "does not list $missing")
        return made
    }

    private fun free(key: String): Map<String, Any?> = top.fields(key).let { all -> all.keys.associateWith(all::any) }

    private companion object {
        const val MAX_SECONDS = (1L shl 53) - 1
        val DIGEST = Regex("[0-9a-f]{64}")
        val LABEL = Regex("[\\s\\S]+")
        val VERSION = Regex("[0-9]{1,6}(\\.[0-9]{1,6}){0,3}")
        val CREATED = Regex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
        val COLUMN = Regex("[A-Za-z][A-Za-z0-9_]{0,63}")
        val ARCHITECTURE = Regex("qwen3|llama")
        val SCHEME = Regex("fp32|int8|int4")
        val REQUIRED_FILES = setOf(
            "backbone.safetensors", "catalogue.safetensors", "golden.json", "inputs.safetensors", "items.safetensors",
            "tokenizer.json", "words.safetensors",
        )
    }
}
