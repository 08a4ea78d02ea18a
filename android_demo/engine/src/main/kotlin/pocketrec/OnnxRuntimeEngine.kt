package pocketrec

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.nio.FloatBuffer

/** `model.onnx` on one thread that sleeps when idle: a phone has a battery. A graph that the format forbids never gets here. */
internal class OnnxRuntimeEngine(model: ByteArray, private val graph: Graph) : Engine {
    override val name: String get() = "onnxruntime"
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession

    init {
        session = try {
            OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(1)
                options.setInterOpNumThreads(1)
                options.addConfigEntry("session.intra_op.allow_spinning", "0")
                environment.createSession(model, options)
            }
        } catch (error: OrtException) {
            throw failed("refuses the graph", error)
        }
        val (length, dim) = graph
        closingOnError(this) {
            val inputs = session.inputInfo.mapValues { (it.value.info as? TensorInfo)?.shape?.toList() }
            val outputs = session.outputInfo.mapValues { (it.value.info as? TensorInfo)?.shape?.toList() }
            val wanted = mapOf("rows" to listOf(1L, length.toLong(), dim.toLong()), "mask" to listOf(1L, length.toLong()))
            if (inputs != wanted || outputs != mapOf("query" to listOf(1L, dim.toLong()))) {
                throw BundleException(
                    "model.onnx has the inputs $inputs and outputs $outputs, the manifest asks for others.",
                    "graph-invalid", "Build the bundle again.",
                )
            }
        }
    }

    override fun run(rows: FloatArray, mask: FloatArray, checkpoint: () -> Unit): FloatArray = try {
        val shape = longArrayOf(1, graph.length.toLong(), graph.dim.toLong())
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(rows), shape).use { rowsTensor ->
            OnnxTensor.createTensor(environment, FloatBuffer.wrap(mask), longArrayOf(1, graph.length.toLong())).use {
                session.run(mapOf("rows" to rowsTensor, "mask" to it)).use { answer ->
                    FloatArray(graph.dim).also { out -> (answer[0] as OnnxTensor).floatBuffer.get(out) }
                }
            }
        }
    } catch (error: OrtException) {
        throw failed("failed", error)
    }

    override fun close(): Unit = session.close()

    companion object {
        fun load(bundle: Bundle): Engine {
            val spec = bundle.manifest.engines["onnxruntime"] ?: throw engineUnavailable(
                "the bundle has no graph for ONNX Runtime.", "Use Engines.KOTLIN, or build it with --targets onnx.",
            )
            val version = try {
                OrtEnvironment.getEnvironment().version
            } catch (error: LinkageError) {
                throw engineUnavailable(
                    "ONNX Runtime is not in this app: $error.", "Add onnxruntime-android, or use Engines.KOTLIN.",
                )
            }
            // Releases from 1.29 on report usage over the network by default.
            if (!admits(version, null, "1.28")) {
                throw engineUnavailable("ONNX Runtime $version reports usage over the network.", "Use a version below 1.29.")
            }
            if (!admits(version, spec.minVersion, spec.maxVersion)) {
                throw engineUnavailable(
                    "ONNX Runtime $version is outside the range that the bundle was made for, " +
                        "${spec.minVersion ?: "any"} to ${spec.maxVersion ?: "any"}.",
                    "Use a version in that range, or build the bundle again.",
                )
            }
            val model = bundle.fileBytes(spec.file)
            OnnxShapes.check(model, bundle.manifest)
            return OnnxRuntimeEngine(model, bundle.manifest.graph)
        }

        /** docs/bundle.md §2: the minimum is inclusive, the maximum admits its patches; null is open. */
        fun admits(version: String, min: String?, max: String?): Boolean {
            fun order(a: List<Int>, b: List<Int>) = a.zip(b).map { (x, y) -> x.compareTo(y) }.firstOrNull { it != 0 } ?: 0
            val have = numbers(version)
            return (min == null || order(have, numbers(min)) >= 0) &&
                (max == null || order(have.take(2), numbers(max).take(2)) <= 0)
        }

        private fun numbers(version: String): List<Int> {
            val found = Regex("\\d+").findAll(version.substringBefore('-').substringBefore('+')).map { it.value.toInt() }
            return (found.toList() + listOf(0, 0, 0)).take(3)
        }

        private fun failed(what: String, error: OrtException) = PocketrecException(
            "ONNX Runtime $what: ${error.message}", "engine-failed", "Build the bundle again, or use Engines.KOTLIN.", error,
        )
    }
}
