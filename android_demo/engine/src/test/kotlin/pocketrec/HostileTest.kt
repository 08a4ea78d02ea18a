package pocketrec

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assertions.fail
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import java.io.File

class HostileTest {
    private val folder = Bundles.file("hostile")

    @TestFactory
    fun `every bundle of the corpus is refused with its code`(): List<DynamicTest> {
        val index = Json.parse(File(folder, "index.json").readBytes(), "index") as Map<*, *>
        val cases = (index["cases"] as List<*>).map { it as Map<*, *> }
        // "text" is refused by what encodes texts, which this engine does not do.
        return cases.filter { it["stage"] != "text" }.map { case -> dynamicTest(case["name"] as String) { refused(case) } }
    }

    @Test
    fun `the graph that the corpus starts from is admitted`() = runBlocking {
        Recommender.open(File(folder, "sound-directory/bundle"), engine = Engines.ONNX_RUNTIME).use {
            assertEquals("onnxruntime", it.engine)
        }
    }

    private fun refused(case: Map<*, *>) {
        val codes = case["codes"] as List<*>
        val keys = (case["public_keys"] as List<*>).map { key ->
            (key as String).chunked(2).map { it.toInt(16).toByte() }.toByteArray()
        }
        val engine = if (case["stage"] == "graph") Engines.ONNX_RUNTIME else Engines.KOTLIN
        try {
            runBlocking {
                Recommender.open(File(folder, case["path"] as String), engine = engine, publicKeys = keys).use {
                    val golden = Golden.of(it.bundle)
                    if (codes.isEmpty()) assertEquals(emptyList<String>(), golden.replay(it)) // a sound one
                }
            }
        } catch (error: PocketrecException) {
            assertTrue(error.code in codes, "refused with ${error.code}, not one of $codes: ${error.message}")
            return
        }
        if (codes.isNotEmpty()) fail<Unit>("it was opened; it should be refused with one of $codes")
    }
}
