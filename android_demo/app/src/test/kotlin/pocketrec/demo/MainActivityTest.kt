package pocketrec.demo

import android.os.Looper
import android.view.View
import android.widget.Button
import android.widget.ListView
import android.widget.TextView
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import pocketrec.SqlHistory
import pocketrec.android.FrameworkDatabase
import java.io.File

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
class MainActivityTest {
    private fun ActivityController<MainActivity>.strip() = get().findViewById<TextView>(R.id.strip).text.toString()

    private fun ActivityController<MainActivity>.list() = get().findViewById<ListView>(R.id.list)

    private fun ActivityController<MainActivity>.row(position: Int): View = list().adapter.getView(position, null, list())

    /** Lets background work and the main thread go on until [done]. */
    private fun await(done: () -> Boolean) {
        repeat(600) {
            shadowOf(Looper.getMainLooper()).idle()
            if (done()) return
            Thread.sleep(50)
        }
        throw AssertionError("it did not come about in 30 seconds")
    }

    @Test
    fun `a tap ranks again, the history survives, clearing ends it`() {
        var screen = Robolectric.buildActivity(MainActivity::class.java).setup()
        val popular = screen.get().getString(R.string.popular)
        await { screen.strip().startsWith(popular) }
        assertEquals(30, screen.list().adapter.count)

        val first = screen.row(0).findViewById<TextView>(R.id.title).text.toString()
        screen.list().performItemClick(screen.row(0), 0, 0)
        await { first in screen.strip() }
        assertFalse(first == screen.row(0).findViewById<TextView>(R.id.title).text.toString())

        val second = screen.row(1).findViewById<TextView>(R.id.title).text.toString()
        val buy = screen.row(1).findViewById<Button>(R.id.buy)
        assertTrue(second in buy.contentDescription)
        buy.performClick()
        await { second in screen.strip() }

        screen.recreate() // rotation
        await { second in screen.strip() && first in screen.strip() }
        screen.pause().stop().destroy()
        // What a new process would find on the disk.
        val file = File(screen.get().noBackupFilesDir, "history.db")
        val stored = SqlHistory(FrameworkDatabase(file)).use { it.events() }
        assertEquals(listOf("view", "buy"), stored.map { it.event })
        screen = Robolectric.buildActivity(MainActivity::class.java).setup()
        await { second in screen.strip() }

        screen.get().findViewById<Button>(R.id.clear).performClick()
        await { screen.strip().startsWith(popular) }
    }
}
