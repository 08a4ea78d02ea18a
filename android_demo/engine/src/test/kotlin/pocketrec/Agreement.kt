package pocketrec

import kotlinx.coroutines.runBlocking
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64

/**
 * Ranks every history of a file, for tools/pocketrec_tools/android_agreement.py: BUNDLE ENGINE HISTORIES OUT.
 *
 * HISTORIES holds one JSON list of [item, event, time] a line; OUT gets `{"micros", "items", "scores", "query"}` for each,
 * where the query is the base64 of its little-endian float32s.
 */
fun main(arguments: Array<String>) = runBlocking {
    val (bundle, engine, histories, out) = arguments
    val factory = if (engine == "onnxruntime") Engines.ONNX_RUNTIME else Engines.KOTLIN
    lateinit var heard: Listener
    Recommender.open(File(bundle), engine = { opened -> Listener(factory.load(opened)).also { heard = it } }).use { recommender ->
        File(out).bufferedWriter().use { writer ->
            File(histories).forEachLine { line ->
                val history = (Json.parse(line.toByteArray(), "a history") as List<*>).map {
                    val (item, event, time) = it as List<*>
                    Event(item as String, event as String, time as Long?)
                }
                val started = System.nanoTime()
                val ranked = runBlocking { recommender.rank(history) }
                val micros = (System.nanoTime() - started) / 1000
                val items = ranked.joinToString { Json.quoted(it.itemId) }
                writer.write("{\"micros\": $micros, \"items\": [$items], \"scores\": ${ranked.map { it.score }}, ")
                writer.write("\"query\": \"${base64(heard.query)}\"}\n")
            }
        }
    }
}

/** An engine that keeps the last query. */
private class Listener(private val engine: Engine) : Engine by engine {
    var query = FloatArray(0)
        private set

    override fun run(rows: FloatArray, mask: FloatArray, checkpoint: () -> Unit): FloatArray =
        engine.run(rows, mask, checkpoint).also { query = it }
}

private fun base64(values: FloatArray): String {
    val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asFloatBuffer().put(values)
    return Base64.getEncoder().encodeToString(bytes.array())
}
