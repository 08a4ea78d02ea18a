package pocketrec

import org.junit.jupiter.api.Assumptions.assumeTrue
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import java.io.File

/** What tests/android_bundles.py made; a test that asks for it is skipped where there is none. */
object Bundles {
    private val root: File? = System.getProperty("pocketrec.bundles").orEmpty().ifEmpty { null }?.let(::File)

    fun file(name: String): File {
        assumeTrue(root != null, "no bundles: run tests/android_bundles.py OUT and pass -Dpocketrec.bundles=OUT")
        return File(root!!, name)
    }
}

fun assertCode(code: String, block: () -> Unit) {
    val error = assertThrows(PocketrecException::class.java) { block() }
    assertEquals(code, error.code, error.message)
}
