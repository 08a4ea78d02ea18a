package pocketrec.demo

import android.app.Activity
import android.os.Bundle
import android.widget.Button
import android.widget.ListView
import android.widget.TextView
import android.widget.Toast
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import pocketrec.PocketrecException
import pocketrec.Recommendation
import pocketrec.Recommender
import java.util.Locale

/** A feed that ranks again at every tap, and says why and how long it took. */
class MainActivity : Activity() {
    private val scope = MainScope()
    private val items = ItemAdapter(::tapped)
    private lateinit var strip: TextView
    private var ranking: Job? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.main)
        strip = findViewById(R.id.strip)
        val list = findViewById<ListView>(R.id.list)
        list.adapter = items
        list.setOnItemClickListener { _, _, position, _ -> tapped(items.getItem(position), "view") }
        val clear = findViewById<Button>(R.id.clear)
        clear.setOnClickListener { use { clear(it) } }
        use {
            show(it)
            clear.isEnabled = true
        }
    }

    override fun onDestroy() {
        scope.cancel()
        super.onDestroy()
    }

    private fun tapped(item: Recommendation, event: String) = use {
        it.record(item.itemId, event)
        show(it)
    }

    private suspend fun clear(recommender: Recommender) {
        val count = recommender.clear()
        Toast.makeText(this, resources.getQuantityString(R.plurals.cleared, count, count), Toast.LENGTH_SHORT).show()
        show(recommender)
    }

    private suspend fun show(recommender: Recommender) {
        val events = recommender.events()
        val started = System.nanoTime()
        val ranked = recommender.recommend(k = 30)
        val millis = String.format(Locale.getDefault(), "%.1f", (System.nanoTime() - started) / 1e6)
        val catalogue = recommender.bundle.catalogue
        val titles = events.takeLast(3).asReversed().map { catalogue.position(it.itemId) }.filter { it >= 0 }.distinct()
            .map { if ("title" in catalogue.columns) catalogue.text("title", it) else catalogue.itemId(it) }
        val why = if (ranked.fallback) getString(R.string.popular) else getString(R.string.because, titles.joinToString())
        strip.text = getString(R.string.strip, why, catalogue.size, millis)
        items.show(ranked)
    }

    /** Runs [block] when the recommender is there; a new tap replaces a list that is still being made. */
    private fun use(block: suspend (Recommender) -> Unit) {
        val before = ranking
        ranking = scope.launch {
            before?.join() // a record that was begun is finished first
            try {
                block((application as DemoApplication).recommender.await())
            } catch (error: CancellationException) {
                throw error
            } catch (error: PocketrecException) {
                strip.text = error.message
            }
        }
    }
}
