// What Robolectric asks of androidx.test, which is in Google's repository only; as little as it needs to run an activity.
package androidx.test.platform.app

import android.app.Instrumentation
import android.os.Bundle

object InstrumentationRegistry {
    private var instance: Instrumentation? = null

    @JvmStatic
    fun getInstrumentation(): Instrumentation? = instance

    @JvmStatic
    fun registerInstance(made: Instrumentation?, @Suppress("UNUSED_PARAMETER") arguments: Bundle?) {
        instance = made
    }
}
