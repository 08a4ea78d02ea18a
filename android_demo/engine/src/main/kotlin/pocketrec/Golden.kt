package pocketrec

import kotlin.math.abs

/** Golden vectors: histories with the lists that every runtime must give (docs/bundle.md §8). */
public class Golden private constructor(private val tolerance: Double, private val cases: List<Case>) {
    private class Case(
        val history: List<Event>, val k: Int, val filterSeen: Boolean, val exclude: List<String>,
        val candidates: List<String>?, val fallback: Boolean, val items: List<String>, val scores: List<Double>,
    )

    /** How many cases there are. */
    public val size: Int get() = cases.size

    /** Every way in which [recommender] disagrees with the vectors; empty when it agrees with all. */
    public suspend fun replay(recommender: Recommender): List<String> = cases.flatMapIndexed { index, case ->
        // One item more than expected tells a list that is too long, and a stranger's k makes none of a million.
        val answer = recommender.rank(case.history, minOf(case.k, case.items.size + 1), case.candidates, case.exclude, case.filterSeen)
        val found = ArrayList<String>()
        if (answer.fallback != case.fallback) found.add("case $index: fallback is ${answer.fallback}")
        if (answer.size != case.items.size) {
            found.add("case $index: expected ${case.items.size} items, got ${answer.size}")
        } else {
            val expected = case.items.toSet()
            answer.forEachIndexed { rank, item ->
                if (!(abs(item.score - case.scores[rank]) <= tolerance)) {
                    found.add("case $index, rank ${rank + 1}: expected ${case.scores[rank]}, got ${item.score}")
                }
                if (item.itemId !in expected && !(abs(item.score - case.scores.last()) <= tolerance)) {
                    found.add("case $index, rank ${rank + 1}: ${item.itemId} (${item.score}) is not among the expected")
                }
            }
        }
        found
    }

    public companion object {
        /** The vectors of a bundle; `golden-invalid` when they break a rule of §8. */
        @JvmStatic
        public fun of(bundle: Bundle): Golden {
            val size = bundle.sizes.getValue("golden.json")
            if (size > Limits.GOLDEN_BYTES) {
                throw BundleException("golden.json has $size bytes.", "too-large", "Build the bundle again.")
            }
            val top = Fields(Json.parse(bundle.fileBytes("golden.json"), "golden.json"), "golden", CODE)
            val tolerance = top.number("tolerance")
            top.check(tolerance >= 0 && tolerance < 1e6, "has a tolerance outside 0 … 1e6")
            val cases = limited(top.list("cases"), Limits.GOLDEN_CASES, "cases").map { case(Fields(it, "golden.cases", CODE)) }
            top.done()
            return Golden(tolerance, cases)
        }

        private fun case(fields: Fields): Case {
            val made = Case(
                limited(fields.list("history"), Limits.GOLDEN_EVENTS, "events in a history").map { event(fields, it) },
                fields.int("k", 1..Int.MAX_VALUE), fields.flag("filter_seen"), fields.texts("exclude"),
                if (fields.any("candidates") == null) null else fields.texts("candidates"),
                fields.flag("fallback"), fields.texts("items"),
                fields.list("scores").map { (it as? Number)?.toDouble() ?: invalid("a score that is not a number") },
            )
            fields.done()
            fields.check(made.items.size == made.scores.size && made.items.size <= made.k, "has items and scores that do not fit")
            return made
        }

        private fun event(fields: Fields, raw: Any?): Event {
            val parts = raw as? List<*>
            fields.check(
                parts != null && parts.size == 3 && parts[0] is String && parts[1] is String &&
                    (parts[2] == null || parts[2] is Long),
                "has a history with something else than events",
            )
            return Event(parts!![0] as String, parts[1] as String, parts[2] as Long?)
        }

        private fun limited(values: List<Any?>, most: Int, what: String): List<Any?> {
            if (values.size <= most) return values
            throw BundleException(
                "golden.json holds ${values.size} $what; at most $most are allowed.", "too-large", "Build the bundle with fewer.",
            )
        }

        private fun invalid(what: String): Nothing =
            throw BundleException("golden.json holds $what.", CODE, "Build the bundle again.")

        private const val CODE = "golden-invalid"
    }
}
