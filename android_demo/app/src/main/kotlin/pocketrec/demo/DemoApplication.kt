package pocketrec.demo

import android.app.Application
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.async
import pocketrec.Recommender
import pocketrec.SqlHistory
import pocketrec.android.FrameworkDatabase
import pocketrec.android.assetBundle
import java.io.File

/** Holds the recommender: it outlives a rotation, and a process that was killed opens it again with the same history. */
class DemoApplication : Application() {
    val scope: CoroutineScope = MainScope()

    val recommender: Deferred<Recommender> by lazy {
        scope.async(Dispatchers.IO) {
            val history = SqlHistory(FrameworkDatabase(File(noBackupFilesDir, "history.db")))
            Recommender.open(assetBundle(this@DemoApplication, "demo.bundle"), history)
        }
    }
}
