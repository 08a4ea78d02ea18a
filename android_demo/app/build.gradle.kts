plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "pocketrec.demo"
    compileSdk = 35
    defaultConfig {
        applicationId = "pocketrec.demo"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "0.1.0"
    }
    buildTypes {
        release {
            isMinifyEnabled = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
            signingConfig = signingConfigs.getByName("debug")
        }
    }
    // The bundle is mapped where it lies in the APK. Put demo.bundle (a stored ZIP) into src/main/assets.
    androidResources { noCompress += "bundle" }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

kotlin {
    compilerOptions { jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_1_8 }
}

dependencies {
    implementation(project(":android"))
    implementation(libs.coroutines.android)
    // implementation(libs.onnxruntime.android) // and Engines.ONNX_RUNTIME when the recommender is opened
}
