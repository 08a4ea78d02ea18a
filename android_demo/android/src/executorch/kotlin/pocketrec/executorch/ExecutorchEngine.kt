package pocketrec.executorch

import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import pocketrec.Bundle
import pocketrec.Engine
import pocketrec.EngineFactory
import pocketrec.PocketrecException
import java.io.File

/**
 * `model.pte` by ExecuTorch. NOT compiled and NOT run in this repository: `org.pytorch:executorch-android` could not be had where
 * it was written. It follows the library's documented API of 1.4; build it once with Gradle and replay the golden vectors.
 *
 * ExecuTorch opens files by path, so the program is written to [folder] (the app's cache) from the bytes that were verified.
 */
public class ExecutorchFactory(private val folder: File) : EngineFactory {
    override fun load(bundle: Bundle): Engine {
        val spec = bundle.manifest.engines["executorch"] ?: throw PocketrecException(
            "the bundle has no graph for ExecuTorch.", "engine-unavailable", "Build it with --targets executorch.",
        )
        val program = File(folder, "${bundle.manifest.bundleId}.pte")
        program.writeBytes(bundle.fileBytes(spec.file))
        return ExecutorchEngine(Module.load(program.path), bundle.manifest.graph.length, bundle.manifest.graph.dim)
    }
}

private class ExecutorchEngine(private val module: Module, private val length: Int, private val dim: Int) : Engine {
    override val name: String get() = "executorch"

    override fun run(rows: FloatArray, mask: FloatArray, checkpoint: () -> Unit): FloatArray {
        val shape = longArrayOf(1, length.toLong(), dim.toLong())
        val answer = module.forward(
            EValue.from(Tensor.fromBlob(rows, shape)),
            EValue.from(Tensor.fromBlob(mask, longArrayOf(1, length.toLong()))),
        )
        return answer[0].toTensor().dataAsFloatArray
    }

    override fun close(): Unit = module.destroy()
}
