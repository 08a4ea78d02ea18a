package pocketrec.demo

import android.database.sqlite.SQLiteDatabase
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
import java.io.File

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
class MainActivityTest {
    private fun ActivityController<MainActivity>.strip() = get().findViewById<TextView>(R.id.strip).text.toString()

    private fun ActivityController<MainActivity>.list() = get().findViewById<ListView>(R.id.list)

    private fun ActivityController<MainActivity>.row(position: Int): View = list().adapter.getView(position, null, list())

    /** Lets background work and the main thread go on until the strip says what it should. */
    private fun ActivityController<MainActivity>.await(what: String, said: (String) -> Boolean) {
        val end = System.nanoTime() + PATIENCE_SECONDS * 1_000_000_000L
        while (System.nanoTime() < end) {
            shadowOf(Looper.getMainLooper()).idle()
            if (said(strip())) return
            Thread.sleep(20)
        }
        throw AssertionError("$what: not in $PATIENCE_SECONDS seconds; the strip says \"${strip()}\"")
    }

    /** Read without the library: `make shrunk` runs this class with a library whose names R8 took away. */
    private fun stored(file: File): List<String> =
        SQLiteDatabase.openDatabase(file.path, null, SQLiteDatabase.OPEN_READWRITE).use { database ->
            database.rawQuery("SELECT event FROM events ORDER BY seq", null).use { rows ->
                generateSequence { if (rows.moveToNext()) rows.getString(0) else null }.toList()
            }
        }

    @Test
    fun `a tap ranks again, the history survives, clearing ends it`() {
        var screen = Robolectric.buildActivity(MainActivity::class.java).setup()
        val popular = screen.get().getString(R.string.popular)
        screen.await("the first list") { it.startsWith(popular) }
        assertEquals(30, screen.list().adapter.count)

        val first = screen.row(0).findViewById<TextView>(R.id.title).text.toString()
        screen.list().performItemClick(screen.row(0), 0, 0)
        screen.await("a view") { first in it }
        assertFalse(first == screen.row(0).findViewById<TextView>(R.id.title).text.toString())

        val second = screen.row(1).findViewById<TextView>(R.id.title).text.toString()
        val buy = screen.row(1).findViewById<Button>(R.id.buy)
        assertTrue(second in buy.contentDescription)
        buy.performClick()
        screen.await("a buy") { second in it }

        screen.recreate() // rotation
        screen.await("rotation") { second in it && first in it }
        screen.pause().stop().destroy()
        // What a new process would find on the disk.
        assertEquals(listOf("view", "buy"), stored(File(screen.get().noBackupFilesDir, "history.db")))
        screen = Robolectric.buildActivity(MainActivity::class.java).setup()
        screen.await("a new process") { second in it }

        screen.get().findViewById<Button>(R.id.clear).performClick()
        screen.await("clearing") { it.startsWith(popular) }
    }

    private companion object {
        const val PATIENCE_SECONDS = 120 // a machine may be busy
    }
}
