package pocketrec

import kotlinx.coroutines.runBlocking
import java.io.File

/**
 * Ranks every history of a file, for tools/pocketrec_tools/android_agreement.py: BUNDLE ENGINE HISTORIES OUT.
 *
 * HISTORIES holds one JSON list of [item, event, time] a line; OUT gets `{"micros", "items", "scores"}` for each.
 */
fun main(arguments: Array<String>) = runBlocking {
    val (bundle, engine, histories, out) = arguments
    val factory = if (engine == "onnxruntime") Engines.ONNX_RUNTIME else Engines.KOTLIN
    Recommender.open(File(bundle), engine = factory).use { recommender ->
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
                writer.write("{\"micros\": $micros, \"items\": [$items], \"scores\": ${ranked.map { it.score }}}\n")
            }
        }
    }
}
