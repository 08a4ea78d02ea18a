package pocketrec

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.util.Base64

class OnnxTest {
    @Test
    fun `mutants of a graph are admitted and refused as by Python`() {
        val manifest = Bundle.open(Bundles.file("hostile/sound-directory/bundle")).use { it.manifest }
        val cases = Json.parse(Bundles.file("graphs.json").readBytes(), "graphs.json") as List<*>
        var admitted = 0
        for ((index, case) in cases.withIndex()) {
            val (text, wanted) = (case as List<*>).map { it as String }
            val found = try {
                OnnxShapes.check(Base64.getDecoder().decode(text), manifest)
                "".also { admitted++ }
            } catch (error: BundleException) {
                error.code
            }
            assertEquals(wanted, found, "mutant $index")
        }
        assertTrue(admitted in 2..cases.size / 2, "$admitted of ${cases.size} were admitted")
    }
}
