package androidx.test.espresso

import android.os.Looper

interface IdlingResource {
    interface ResourceCallback {
        fun onTransitionToIdle()
    }

    fun getName(): String

    fun isIdleNow(): Boolean

    fun registerIdleTransitionCallback(callback: ResourceCallback)
}

class IdlingRegistry private constructor() {
    fun getLoopers(): Collection<Looper> = emptyList()

    fun getResources(): Collection<IdlingResource> = emptyList()

    companion object {
        private val instance = IdlingRegistry()

        @JvmStatic
        fun getInstance(): IdlingRegistry = instance
    }
}
