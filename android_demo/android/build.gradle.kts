plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
    `maven-publish`
}

group = "pocketrec"
version = "0.1.0"

android {
    namespace = "pocketrec.android"
    compileSdk = 35
    defaultConfig {
        minSdk = 26
        consumerProguardFiles("consumer-rules.pro")
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    kotlinOptions { jvmTarget = "1.8" }
    // -Pexecutorch adds the adapter for ExecuTorch.
    if (providers.gradleProperty("executorch").isPresent) {
        sourceSets["main"].kotlin.srcDir("src/executorch/kotlin")
    }
    publishing { singleVariant("release") { withSourcesJar() } }
}

dependencies {
    api(project(":engine"))
    implementation(libs.coroutines.android)
    compileOnly(libs.executorch.android)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "pocketrec-android"
            afterEvaluate { from(components["release"]) }
        }
    }
}
