package pocketrec

import java.io.Closeable

/** Runs one graph. Called from one thread at a time. */
public interface Engine : Closeable {
    public val name: String

    /**
     * The query [dim] of [rows] [length · dim], zeros where [mask] [length] is 0.
     *
     * [checkpoint] may be called between parts of the work; it throws when nobody waits for the answer any more.
     */
    public fun run(rows: FloatArray, mask: FloatArray, checkpoint: () -> Unit = {}): FloatArray
}

/** Makes the engine of a bundle; throws a [PocketrecException] with `engine-unavailable` or `engine-failed` when it cannot. */
public fun interface EngineFactory {
    public fun load(bundle: Bundle): Engine
}

/** The engines that come with this library. */
public object Engines {
    /** The backbone in Kotlin, from `backbone.safetensors`; every bundle has it, and it needs no native library. */
    @JvmField
    public val KOTLIN: EngineFactory = EngineFactory { KotlinEngine(it) }

    /**
     * `model.onnx` by ONNX Runtime, once the graph was found to be what the format admits (`graph-invalid`); the app brings the
     * library (`onnxruntime-android`, below version 1.29).
     */
    @JvmField
    public val ONNX_RUNTIME: EngineFactory = EngineFactory { OnnxRuntimeEngine.load(it) }
}

internal fun engineUnavailable(message: String, remedy: String) = PocketrecException(message, "engine-unavailable", remedy)
