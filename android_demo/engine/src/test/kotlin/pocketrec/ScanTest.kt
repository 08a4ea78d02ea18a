package pocketrec

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import java.nio.ByteBuffer
import kotlin.random.Random

class ScanTest {
    /** Σ u · q as docs/bundle.md §6 has it, in Long. */
    private fun expected(raw: ByteArray, u: IntArray, int4: Boolean, row: Int): List<Long> {
        val d = u.size
        fun q(j: Int) = if (int4) (raw[(row * d + j) / 2].toInt() shr 4 * (j % 2) and 15) - 8 else raw[row * d + j].toInt()
        return (0 until d).chunked(if (int4) 32 else d) { part -> part.sumOf { u[it].toLong() * q(it) } }
    }

    @Test
    fun `sums of integers are exact, both ways, all rows or some`() {
        val random = Random(2)
        for (d in listOf(32, 64, 96, 256, 4096)) {
            for (int4 in listOf(false, true)) {
                val n = random.nextInt(1, 400)
                val width = if (int4) d / 2 else d
                val extreme = random.nextBoolean()
                val raw = ByteArray(n * width) { if (extreme) -128 else random.nextInt().toByte() }
                val u = IntArray(d) { if (extreme) -127 else random.nextInt(-127, 128) }
                // A map of a file begins anywhere.
                val bytes = ByteBuffer.allocateDirect(raw.size + 3).also { it.position(3) }.slice().also { it.put(raw); it.rewind() }
                val tensor = Tensor(if (int4) "U8" else "I8", listOf(n.toLong(), width.toLong()), bytes)
                for (words in listOf(false, true)) {
                    val block = IntegerSums.of(tensor, u, int4, n, words)
                    val perRow = if (int4) d / 32 else 1
                    for (start in 0 until n step block.most) {
                        val count = minOf(block.most, n - start)
                        block.read(start, count, 0)
                        val want = (start until start + count).flatMap { expected(raw, u, int4, it) }
                        assertEquals(want, block.sums(count).take(count * perRow).map { it.toLong() }, "d $d, int4 $int4, words $words")
                    }
                    val some = List(minOf(5, block.most)) { random.nextInt(n) }
                    some.forEachIndexed { at, row -> block.read(row, 1, at) }
                    val found = block.sums(some.size).copyOf(some.size * perRow)
                    assertArrayEquals(some.flatMap { expected(raw, u, int4, it) }.map { it.toInt() }.toIntArray(), found)
                }
            }
        }
    }

    @Test
    fun `scales are the numbers that halves are`() {
        for (half in 0 until 0x7c00) assertEquals(halfToFloat(half.toShort()), scaleOfHalf(half.toShort()))
        assertEquals(0f, scaleOfHalf(0x8000.toShort()))
    }
}
