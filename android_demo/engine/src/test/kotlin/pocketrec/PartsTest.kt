package pocketrec

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import kotlin.random.Random

class PartsTest {
    @Test
    fun `json is what RFC 8259 says and no more`() {
        fun read(text: String) = Json.parse(text.toByteArray(), "it")
        assertEquals(mapOf("a" to listOf(1L, 1.5, null, true, "x\ny\u20ac")), read(""" {"a": [1, 1.5, null, true, "x\ny\u20ac"]} """))
        assertEquals(1.0, read("1.0"))
        assertEquals(1e30, read("1e30"))
        val bad = listOf(
            "", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "01", "+1", ".5", "1.", "NaN", "Infinity", "1e999", "'a'",
            "\"a", "\"\t\"", "\"\\x\"", "\"\\u12g4\"", "1 2", "\ufeff1", "tru", "[".repeat(100_000),
        )
        for (text in bad) assertCode("json-invalid") { read(text) }
        assertCode("json-invalid") { Json.parse(byteArrayOf(34, 0xff.toByte(), 34), "it") }
    }

    @Test
    fun `the best k are those of a full sort, ties by position`() {
        val random = Random(1)
        repeat(300) {
            val scores = FloatArray(random.nextInt(0, 60)) { random.nextInt(-3, 4).toFloat() }
            val banned = BooleanArray(scores.size) { random.nextInt(4) == 0 }
            val k = random.nextInt(1, 70)
            val sorted = scores.indices.filter { !banned[it] }.sortedWith(compareBy({ -scores[it] }, { it })).take(k)
            assertArrayEquals(sorted.toIntArray(), topK(scores, k, banned))
        }
        assertArrayEquals(intArrayOf(0, 1), topK(floatArrayOf(-0f, 0f), 2, null))
    }

    @Test
    fun `half floats are exact`() {
        assertEquals(1f, halfToFloat(0x3c00))
        assertEquals(-2f, halfToFloat(0xc000.toShort()))
        assertEquals(65504f, halfToFloat(0x7bff))
        assertEquals(5.9604645e-8f, halfToFloat(1))
        assertEquals(6.1035156e-5f, halfToFloat(0x0400))
        assertEquals(0.33325195f, halfToFloat(0x3555))
        assertEquals(Float.POSITIVE_INFINITY, halfToFloat(0x7c00))
    }

    @Test
    fun `a range of versions admits its patches`() {
        fun admits(version: String, min: String?, max: String?) = OnnxRuntimeEngine.admits(version, min, max)
        assertEquals(listOf(true, true, false), listOf("1.28.0", "1.28.9", "1.29.0").map { admits(it, "1.20", "1.28") })
        assertEquals(listOf(false, true), listOf("1.19.9", "1.20.0").map { admits(it, "1.20", null) })
        assertEquals(true, admits("3", null, null))
    }

    @Test
    fun `events say what is wrong with them`() {
        assertCode("item-id-invalid") { Event("") }
        assertCode("text-invalid") { Event("é".repeat(257)) }
        assertCode("text-invalid") { Event("\ud800") }
        assertCode("timestamp-invalid") { Event("a", "", 1L shl 53) }
        assertEquals("é".repeat(256), Event("é".repeat(256)).itemId)
    }
}
