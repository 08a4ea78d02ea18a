package pocketrec

import kotlinx.coroutines.runBlocking
import java.io.File
import kotlin.system.exitProcess

/**
 * Replays the golden vectors of every bundle in a folder on every engine, for machines where Maven is too slow (tests/arm64):
 * FOLDER. One line a bundle and engine; the exit status is 1 when one disagrees.
 */
fun main(arguments: Array<String>) {
    println("${System.getProperty("os.arch")}, Java ${System.getProperty("java.version")}")
    var wrong = 0
    for (path in File(arguments[0]).listFiles()!!.sorted()) {
        val offered = Bundle.open(path).use { it.manifest.engines.keys }
        for ((name, engine) in listOf("kotlin" to Engines.KOTLIN, "onnxruntime" to Engines.ONNX_RUNTIME)) {
            if (name == "onnxruntime" && name !in offered) continue
            val (size, faults) = runBlocking {
                Recommender.open(path, engine = engine).use { Golden.of(it.bundle).let { golden -> golden.size to golden.replay(it) } }
            }
            println("${path.name} $name: $size cases, ${if (faults.isEmpty()) "agree" else "DISAGREE $faults"}")
            wrong += faults.size
        }
    }
    exitProcess(if (wrong == 0) 0 else 1)
}
