package pocketrec

import java.io.File
import java.lang.management.ManagementFactory
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * The ten best rows of a mapped table for every query of a file, for tools/pocketrec_tools/android_scan.py:
 * FOLDER ROWS DIM SCHEME QUERIES ROUNDS. Writes `{"ms", "cpu_ms", "best"}` to standard output.
 */
fun main(arguments: Array<String>) {
    val (folder, rows, dim, scheme, file) = arguments
    val spec = TableSpec("items.safetensors", rows.toInt(), dim.toInt(), scheme)
    val raw = ByteBuffer.wrap(File(file).readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    val queries = List(raw.remaining() / spec.dim) { FloatArray(spec.dim).also(raw::get) }
    val threads = ManagementFactory.getThreadMXBean()
    BundleSource.of(File(folder)).use { source ->
        val table = Table(spec, Tensors.map(source, spec.file))
        val ms = ArrayList<Double>()
        val cpu = ArrayList<Double>()
        var best = emptyList<List<Int>>()
        repeat(arguments[5].toInt()) {
            best = queries.map { query ->
                val (started, cpuStarted) = System.nanoTime() to threads.currentThreadCpuTime
                val found = topK(table.scores(query, null) {}, 10, null)
                ms.add((System.nanoTime() - started) / 1e6)
                cpu.add((threads.currentThreadCpuTime - cpuStarted) / 1e6)
                found.toList()
            }
        }
        println("{\"ms\": $ms, \"cpu_ms\": $cpu, \"best\": $best}")
    }
}
