package pocketrec

/**
 * One item of a ranked list.
 *
 * @property score the query against the item's row; of a fallback, the popularity prior.
 * @property title the display column `title`, "" when the bundle has none.
 * @property position where the item is in the catalogue.
 * @property display all display columns.
 */
public data class Recommendation(
    val itemId: String,
    val score: Float,
    val title: String,
    val position: Int,
    val display: Map<String, String>,
)

/**
 * A ranked list, best first, and how it came about.
 *
 * @property fallback no item of the history is in the catalogue, so this is the popularity prior.
 * @property skipped events of the history whose item the catalogue lacks.
 * @property engine name of the engine that ran the graph; "" when none ran.
 */
public class Ranking internal constructor(
    private val items: List<Recommendation>,
    public val fallback: Boolean,
    public val skipped: Int,
    public val engine: String,
) : List<Recommendation> by items {
    override fun equals(other: Any?): Boolean = items == other

    override fun hashCode(): Int = items.hashCode()

    override fun toString(): String = "Ranking($items, fallback=$fallback, skipped=$skipped, engine=$engine)"
}

/**
 * Indices of the [k] best of [scores], best first, equal scores by index; those that are true in [banned] are left out.
 *
 * A heap of the k best so far, the worst on top: one comparison for most scores.
 */
internal fun topK(scores: FloatArray, k: Int, banned: BooleanArray?): IntArray {
    val heap = IntArray(minOf(k, scores.size))
    var size = 0

    // −0.0 == 0.0 here, as everywhere outside Float.compareTo.
    fun worse(a: Int, b: Int) = scores[a] < scores[b] || (scores[a] == scores[b] && a > b)

    fun sink() {
        var at = 0
        while (true) {
            var child = 2 * at + 1
            if (child >= size) return
            if (child + 1 < size && worse(heap[child + 1], heap[child])) child++
            if (!worse(heap[child], heap[at])) return
            heap[at] = heap[child].also { heap[child] = heap[at] }
            at = child
        }
    }

    for (i in scores.indices) {
        if (banned != null && banned[i]) continue
        if (size < heap.size) {
            var at = size++
            heap[at] = i
            while (at > 0 && worse(heap[at], heap[(at - 1) / 2])) {
                val parent = (at - 1) / 2
                heap[at] = heap[parent].also { heap[parent] = heap[at] }
                at = parent
            }
        } else if (worse(heap[0], i)) {
            heap[0] = i
            sink()
        }
    }
    val best = IntArray(size)
    for (at in best.indices.reversed()) {
        best[at] = heap[0]
        heap[0] = heap[--size]
        sink()
    }
    return best
}
