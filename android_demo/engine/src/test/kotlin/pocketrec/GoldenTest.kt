package pocketrec

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import java.io.File

class GoldenTest {
    @TestFactory
    fun `every engine agrees with the golden vectors`(): List<DynamicTest> =
        Bundles.file("golden").listFiles()!!.sorted().flatMap { path ->
            val offered = Bundle.open(path).use { it.manifest.engines.keys }
            val engines = mapOf("kotlin" to Engines.KOTLIN) +
                if ("onnxruntime" in offered) mapOf("onnxruntime" to Engines.ONNX_RUNTIME) else emptyMap()
            engines.map { (name, engine) -> dynamicTest("${path.name} $name") { replay(path, engine, name) } }
        }

    private fun replay(path: File, engine: EngineFactory, name: String) = runBlocking {
        Recommender.open(path, engine = engine).use { recommender ->
            assertEquals(name, recommender.engine)
            val golden = Golden.of(recommender.bundle)
            assertTrue(golden.size > 3)
            assertEquals(emptyList<String>(), golden.replay(recommender))
        }
    }

    @Test
    fun `a signature is asked of the pinned key`() {
        val key = Bundles.file("key").readBytes()
        val other = Bundles.file("other-key").readBytes()
        val signed = Bundles.file("golden/signed.zip")
        Bundle.open(signed, listOf(key)).close()
        Bundle.open(signed, listOf(other, key)).close()
        assertCode("signature-invalid") { Bundle.open(signed, listOf(other)) }
        assertCode("signature-missing") { Bundle.open(Bundles.file("golden/int8"), listOf(key)) }
        assertCode("key-invalid") { Bundle.open(signed, listOf(ByteArray(5))) }
    }

    @Test
    fun `an archive inside another file is read where it lies`() = runBlocking {
        val whole = File.createTempFile("asset", ".bin")
        val zip = Bundles.file("golden/signed.zip").readBytes()
        whole.writeBytes(ByteArray(77) + zip + ByteArray(13))
        val file = java.io.RandomAccessFile(whole, "r")
        val source = BundleSource.zip(file.channel, 77, zip.size.toLong(), "asset", file)
        Recommender.open(source).use { assertEquals(emptyList<String>(), Golden.of(it.bundle).replay(it)) }
        assertTrue(whole.delete())
    }
}
