plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
    `maven-publish`
}

group = "pocketrec"
version = "0.1.0"

// -Pexecutorch adds the adapter for ExecuTorch.
val executorch = providers.gradleProperty("executorch").isPresent

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
    if (executorch) {
        sourceSets["main"].kotlin.srcDir("src/executorch/kotlin")
    }
    publishing { singleVariant("release") { withSourcesJar() } }
}

kotlin {
    compilerOptions { jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_1_8 }
}

dependencies {
    api(project(":engine"))
    implementation(libs.coroutines.android)
    if (executorch) compileOnly(libs.executorch.android)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "pocketrec-android"
            afterEvaluate { from(components["release"]) }
        }
    }
}
