package pocketrec

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assertions.fail
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.TestFactory
import java.io.File

class HostileTest {
    private val folder = Bundles.file("hostile")

    @TestFactory
    fun `every bundle of the corpus is refused with its code`(): List<DynamicTest> {
        val index = Json.parse(File(folder, "index.json").readBytes(), "index") as Map<*, *>
        val cases = (index["cases"] as List<*>).map { it as Map<*, *> }
        // "text" is refused by what encodes texts, which this engine does not do. "graph" is refused by reading model.onnx before
        // ONNX Runtime does, which this engine does not do either: docs/android.md says what follows from that.
        return cases.filter { it["stage"] != "text" && it["stage"] != "graph" }.map { case -> dynamicTest(case["name"] as String) { refused(case) } }
    }

    private fun refused(case: Map<*, *>) {
        val codes = case["codes"] as List<*>
        val keys = (case["public_keys"] as List<*>).map { key ->
            (key as String).chunked(2).map { it.toInt(16).toByte() }.toByteArray()
        }
        try {
            runBlocking {
                Recommender.open(File(folder, case["path"] as String), publicKeys = keys).use {
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
