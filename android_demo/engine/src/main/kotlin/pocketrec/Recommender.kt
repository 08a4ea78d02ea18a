package pocketrec

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import java.io.File

/** Where in its life a [Recommender] is: unloaded → loading → ready → closed. */
public enum class State { UNLOADED, LOADING, READY, CLOSED }

/**
 * Ranks a catalogue for a history, offline. Make one with [open].
 *
 * Every suspending function may be called from any thread, the main one too: the work runs on a background thread, one call after
 * the other. A cancelled call stops at the next layer of the graph or block of the table; a `record` that was begun is finished.
 */
public class Recommender private constructor(
    private val source: BundleSource,
    private val stored: History,
    private val factory: EngineFactory,
    private val publicKeys: List<ByteArray>,
) : AutoCloseable {
    private val serial = Dispatchers.Default.limitedParallelism(1)
    private val lifecycle = MutableStateFlow(State.UNLOADED)
    private val gate = Any()
    private lateinit var loaded: Bundle
    private lateinit var runner: Engine
    private var released: Job? = null

    /** Where in its life it is; can be collected. */
    public val state: StateFlow<State> = lifecycle.asStateFlow()

    /** The open bundle; its manifest and catalogue may be read, it is closed with the recommender. */
    public val bundle: Bundle get() = loaded

    /** Name of the engine that runs the graph. */
    public val engine: String get() = runner.name

    /**
     * Appends an event to the history; durable when it returns. No timestamp means now. Null comes back, and nothing is stored,
     * when this person opted out ([History.recording]).
     */
    public suspend fun record(
        itemId: String, event: String = "", timestamp: Long? = System.currentTimeMillis() / 1000,
    ): Event? = ready {
        Event(itemId, event, timestamp).takeIf(stored::record)
    }

    /** The stored history, oldest first. */
    public suspend fun events(): List<Event> = ready { stored.events() }

    /** [rank] over the stored history. */
    public suspend fun recommend(
        k: Int = 10,
        candidates: Collection<String>? = null,
        exclude: Collection<String> = emptyList(),
        filterSeen: Boolean = true,
        at: Long? = null,
    ): Ranking = ready { checkpoint -> rank(stored.events(), k, candidates, exclude, filterSeen, at, checkpoint) }

    /**
     * The [k] best items for a history; changes nothing and reads no stored history.
     *
     * @param history oldest first; items that the catalogue lacks are skipped and counted.
     * @param candidates rank only these; null ranks the whole catalogue, an empty list gives an empty ranking.
     * @param exclude never these; ids that the catalogue lacks do no harm.
     * @param filterSeen leave out every item of the history.
     * @param at Unix seconds; later events are ignored.
     * @throws DataException `k-invalid`, `candidate-unknown`.
     */
    public suspend fun rank(
        history: List<Event>,
        k: Int = 10,
        candidates: Collection<String>? = null,
        exclude: Collection<String> = emptyList(),
        filterSeen: Boolean = true,
        at: Long? = null,
    ): Ranking = ready { checkpoint -> rank(history, k, candidates, exclude, filterSeen, at, checkpoint) }

    /** The [k] items whose rows point most nearly in the direction of this item's (cosine), itself left out. */
    public suspend fun similarItems(itemId: String, k: Int = 10): Ranking = ready { checkpoint ->
        checkK(k)
        val position = loaded.catalogue.position(checkText(itemId, "item id"))
        if (position < 0) {
            throw DataException(
                "the catalogue has no item \"$itemId\".", "item-unknown", "Use an id of this bundle's catalogue.",
            )
        }
        val norms = loaded.items.norms(checkpoint)
        val row = FloatArray(loaded.items.d).also { loaded.items.addRow(position, it, 0) }
        val scores = loaded.items.scores(row, null, checkpoint)
        for (i in scores.indices) {
            val scale = norms[i] * norms[position]
            scores[i] = if (scale > 0f) scores[i] / scale else 0f
        }
        val banned = loaded.catalogue.retired().also { it[position] = true }
        Ranking(topK(scores, k, banned).map { recommendation(it, scores[it]) }, false, 0, "")
    }

    /** Deletes every stored event of an item, beyond recovery; gives how many there were. */
    public suspend fun forget(itemId: String): Int = ready { stored.forget(itemId) }

    /** Deletes the stored history, beyond recovery; gives how many events there were. */
    public suspend fun clear(): Int = ready { stored.clear() }

    /** Writes the stored history as JSON lines; gives how many events there were. */
    public suspend fun export(out: File): Int = ready { stored.export(out) }

    /**
     * Refuses further calls at once; engine, history and bundle are let go of when the calls under way have ended, without
     * blocking the caller. [awaitClosed] waits for that.
     */
    override fun close() {
        synchronized(gate) {
            if (lifecycle.value == State.CLOSED) return
            lifecycle.value = State.CLOSED
            released = CoroutineScope(serial).launch { release() }
        }
    }

    /** Returns when a [close] before it has let go of everything. */
    public suspend fun awaitClosed() {
        released?.join()
    }

    private suspend fun load() {
        lifecycle.value = State.LOADING
        try {
            withContext(serial) {
                loaded = Bundle.open(source, publicKeys)
                val context = currentCoroutineContext()
                context.ensureActive()
                runner = factory.load(loaded)
                // Once, on nothing: first-run costs are paid here, and a graph that cannot run is found out here.
                val graph = loaded.manifest.graph
                runner.run(FloatArray(graph.length * graph.dim), FloatArray(graph.length)) { context.ensureActive() }
            }
        } catch (error: Throwable) {
            lifecycle.value = State.CLOSED
            withContext(NonCancellable + serial) { release() }
            throw error
        }
        lifecycle.value = State.READY
    }

    private fun release() {
        if (::runner.isInitialized) runner.close()
        stored.close()
        source.close()
    }

    private suspend fun <T> ready(block: (Checkpoint) -> T): T = withContext(serial) {
        val context = currentCoroutineContext()
        if (lifecycle.value != State.READY) {
            throw PocketrecException(
                "the recommender is ${lifecycle.value.name.lowercase()}.", "closed", "Open the bundle again.",
            )
        }
        block { context.ensureActive() }
    }

    private fun rank(
        history: List<Event>, k: Int, candidates: Collection<String>?, exclude: Collection<String>, filterSeen: Boolean,
        at: Long?, checkpoint: Checkpoint,
    ): Ranking {
        checkK(k)
        val catalogue = loaded.catalogue
        val limit = at?.let(::checkTime)
        val known = loaded.inputs.known(
            if (limit == null) history else history.filter { it.timestamp == null || it.timestamp <= limit }, catalogue,
        )
        val among = candidates?.let(::positions)
        val banned = catalogue.retired()
        for (id in exclude) catalogue.position(checkText(id, "item id")).let { if (it >= 0) banned[it] = true }
        if (filterSeen) for (position in known.positions) banned[position] = true
        val fallback = known.size == 0
        if (among != null && among.isEmpty()) return Ranking(emptyList(), fallback, known.skipped, "")
        val scores = scores(known, among, checkpoint)
        val out = if (among == null) banned else BooleanArray(among.size) { banned[among[it]] }
        val best = topK(scores, k, out).map { recommendation(if (among == null) it else among[it], scores[it]) }
        return Ranking(best, fallback, known.skipped, if (fallback) "" else engine)
    }

    private fun scores(known: Known, among: IntArray?, checkpoint: Checkpoint): FloatArray {
        val prior = loaded.catalogue.prior
        if (known.size == 0) return if (among == null) prior else FloatArray(among.size) { prior[among[it]] }
        val input = loaded.inputs.fuse(known)
        val query = runner.run(input.rows, input.mask) { checkpoint.check() }
        return loaded.items.scores(query, among, checkpoint)
    }

    /** Positions of the candidates, ascending, each once. */
    private fun positions(candidates: Collection<String>): IntArray = candidates.map { id ->
        loaded.catalogue.position(checkText(id, "item id")).also {
            if (it < 0) {
                throw DataException(
                    "the candidate \"$id\" is not in the catalogue.", "candidate-unknown",
                    "Give ids of this bundle's catalogue.",
                )
            }
        }
    }.distinct().sorted().toIntArray()

    private fun recommendation(position: Int, score: Float): Recommendation {
        val catalogue = loaded.catalogue
        val display = catalogue.columns.associateWith { catalogue.text(it, position) }
        return Recommendation(catalogue.itemId(position), score, display["title"] ?: "", position, display)
    }

    private fun checkK(k: Int) {
        if (k < 1) throw DataException("k is $k.", "k-invalid", "Ask for a whole number of items, at least 1.")
    }

    public companion object {
        /** [open] of the bundle at a path, a directory or a stored ZIP. */
        public suspend fun open(
            bundle: File,
            history: History = MemoryHistory(),
            engine: EngineFactory = Engines.KOTLIN,
            publicKeys: List<ByteArray> = emptyList(),
            onState: (StateFlow<State>) -> Unit = {},
        ): Recommender {
            val source = withContext(Dispatchers.IO) { BundleSource.of(bundle) }
            return open(source, history, engine, publicKeys, onState)
        }

        /**
         * Verifies and maps the bundle, loads the engine and runs it once.
         *
         * @param history of this person; closed with the recommender, also when opening fails.
         * @param publicKeys one of them (32 raw bytes) must have signed the bundle; none: the signature is not checked.
         * @param onState is given the lifecycle before loading begins, for a screen that shows it.
         * @throws BundleException the bundle is damaged, hostile, too new or not signed by one of the keys.
         * @throws PocketrecException `engine-unavailable`, or `engine-failed` when the first run fails.
         */
        public suspend fun open(
            bundle: BundleSource,
            history: History = MemoryHistory(),
            engine: EngineFactory = Engines.KOTLIN,
            publicKeys: List<ByteArray> = emptyList(),
            onState: (StateFlow<State>) -> Unit = {},
        ): Recommender {
            val made = Recommender(bundle, history, engine, publicKeys)
            onState(made.state)
            made.load()
            return made
        }
    }
}
